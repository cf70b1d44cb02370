"""`epsilon-dpo plan` after each kind of edit: the stages that would run, and the exact cause; DVC is the oracle."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dvc.dependency import Dependency
from dvc.repo import Repo
from small_project import contents, dvc, git, small_project, write

from epsilon_dpo.cli import main
from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.provenance.plan.plan import as_json
from epsilon_dpo.provenance.plan.steps import planned

pytestmark = pytest.mark.slow
DPO = "src/epsilon_dpo/methods/dpo.py"
DRAWS = "src/epsilon_dpo/sampling/decoding/draws.py"
POSITIONS = "src/epsilon_dpo/data/tokens/positions.py"
OF_DPO = {"sample@dpo", "score@dpo", "kl@dpo", "monotonicity@dpo"}
LAST = {"tournament", "figures", "report"}


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = small_project(tmp_path_factory.mktemp("plan") / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        dvc("repro", "-q")
    git(project, "add", ".")
    git(project, "commit", "-qm", "results")
    return project


@pytest.fixture
def project(reproduced: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder is the project; what a test edits is taken back."""
    monkeypatch.chdir(reproduced)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield reproduced
    git(reproduced, "checkout", "-q", ".")
    git(reproduced, "clean", "-fdq", "src")
    (reproduced / "data/mine.jsonl").unlink(missing_ok=True)


@pytest.fixture
def restored(project: Path) -> Iterator[Path]:
    """Its outputs, too."""
    yield project
    git(project, "checkout", "-q", ".")
    dvc("checkout", "-q", "-f")


Said = Callable[..., str]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    def ask(*arguments: str) -> str:
        capsys.readouterr()
        main(["plan", *arguments])
        return capsys.readouterr().out

    return ask


class Plan:
    """The JSON by stage, without what is up to date."""

    def __init__(self, printed: str) -> None:
        self.content = json.loads(printed)
        self.stages = {s["stage"]: s for s in self.content["stages"] if s["action"] != "up to date"}

    def that(self, action: str) -> set[str]:
        return {name for name, stage in self.stages.items() if stage["action"] == action}

    def why(self, stage: str) -> list[str]:
        return [cause["text"] for cause in self.stages[stage]["causes"]]


def edit_params(key: str, value: Any, file: str = "params.yaml") -> None:
    content = read_yaml(Path(file))
    *path, last = key.split(".")
    block = content
    for name in path:
        block = block[name]
    if value is None:
        del block[last]
    else:
        block[last] = value
    write(Path(file), content)


def append(file: str, text: str) -> None:
    with Path(file).open("a", encoding="utf-8") as opened:
        opened.write(text)


# The edit; which stages have causes of their own (beside check, which reads all of params.yaml and of the code, if it
# has one); one of them with what is said of it; which may run after them; which dvc commit would accept.
EDITS: dict[str, tuple[Callable[[], Any], set[str], tuple[str, str], set[str], str]] = {
    "param of one run": (
        lambda: edit_params("runs.dpo.beta", 0.2),
        {"check", "align@dpo", *LAST},
        ("align@dpo", "runs.dpo.beta: 0.3 → 0.2"),
        OF_DPO,
        "",
    ),
    "judge param": (
        lambda: edit_params("judge.learning_rate", 0.002),
        {"check", "judge"},
        ("judge", "judge.learning_rate: 0.001 → 0.002"),
        {"ranking", "margins", "scorer", "controls", "score@dpo", "score@epsilon_dpo", *LAST},
        "",
    ),
    "new run": (
        lambda: edit_params("runs.ipo", {"method": "ipo", "tau": 0.1}),
        {"check", "align@ipo", "sample@ipo", "score@ipo", "kl@ipo", "monotonicity@ipo", *LAST},
        ("figures", "runs.ipo is new"),
        set(),
        "",
    ),
    "removed run": (
        lambda: edit_params("runs.epsilon_dpo", None),
        {"check", *LAST},
        ("report", "runs.epsilon_dpo is gone"),
        set(),
        "",
    ),
    "comment in a method": (
        lambda: append(DPO, "\n# a comment\n"),
        {"check", "scorer", "align@dpo"},
        ("align@dpo", f"{DPO} changed in comments, docstrings or layout only"),
        set(),
        "dvc commit -f check scorer align@dpo",
    ),
    "real change in a method": (
        lambda: append(DPO, "\nLIMIT = 3\n"),
        {"check", "scorer", "align@dpo"},
        ("align@dpo", f"{DPO} changed"),
        OF_DPO | LAST,
        "",
    ),
    "change that some do not import": (
        lambda: append(DRAWS, "\nLIMIT = 3\n"),
        {"check", "candidates", "reference", "scorer", "sample@dpo", "sample@epsilon_dpo"},
        ("reference", f"{DRAWS} changed, but it does not import that"),
        set(),  # stage scorer imports it, and its output is constant without a scorer
        "dvc commit -f check candidates reference sample",
    ),
    "new file in a room": (
        lambda: append("src/epsilon_dpo/analysis/kl/fresh.py", "LIMIT = 3\n"),
        {"check", "kl@dpo", "kl@epsilon_dpo"},
        ("kl@dpo", "src/epsilon_dpo/analysis/kl/fresh.py added, but it does not import that"),
        set(),
        "dvc commit -f check kl",
    ),
    "file removed from a room": (
        lambda: Path("src/epsilon_dpo/analysis/kl/records.py").unlink(),
        {"check", "kl@dpo", "kl@epsilon_dpo"},
        ("kl@dpo", "src/epsilon_dpo/analysis/kl/records.py removed"),
        {"figures", "report"},
        "",
    ),
    "another version of a package": (
        lambda: edit_params("kiwisolver", "9.9", "pins.yaml"),
        {"figures", "report"},
        ("report", 'pins.yaml: kiwisolver "1.5.1" → "9.9"'),
        set(),
        "",
    ),
    "command changed": (
        lambda: Path("dvc.yaml").write_text(
            Path("dvc.yaml").read_text("utf-8").replace("> out/kl/${key}/file", "> ./out/kl/${key}/file"), "utf-8"
        ),
        {"kl@dpo", "kl@epsilon_dpo"},
        (
            "kl@dpo",
            "its command: mkdir -p out/kl/dpo && (md5sum < params.yaml && echo out/kl/dpo) > out/kl/dpo/file → "
            "mkdir -p out/kl/dpo && (md5sum < params.yaml && echo out/kl/dpo) > ./out/kl/dpo/file",
        ),
        {"figures", "report"},
        "",
    ),
}


@pytest.mark.parametrize("kind", list(EDITS))
def test_an_edit_names_its_cause(project: Path, kind: str) -> None:
    edit, own, (stage, why), after, accept = EDITS[kind]
    edit()
    looked_at, steps = planned()
    plan = Plan(as_json(steps, list(looked_at.gone())))
    assert why in plan.why(stage)
    assert plan.that("run") == own and plan.that("may run") == after and not plan.that("from cache")
    assert plan.content["accept"] == accept
    assert {stage.name for stage in looked_at.stages if any(stage.changed_entries())} == own  # as DVC itself finds


def test_what_online_runs_alone_import_is_not_called_harmless_to_trainings(project: Path) -> None:
    """Stage align imports it by name (stages/align.py), and has the room among its dependencies for other files."""
    append(POSITIONS, "\nLIMIT = 3\n")
    looked_at, steps = planned(["align"])
    plan = Plan(as_json(steps, list(looked_at.gone())))
    assert plan.why("align@dpo") == [f"{POSITIONS} changed"]
    assert "align" not in plan.content["accept"]


def test_the_seed_of_all(project: Path, said: Said) -> None:
    edit_params("seed", 18)
    plan = Plan(said("--json"))
    for stage in ("fetch", "judge", "align@dpo", "tournament"):
        assert plan.why(stage) == ["seed: 17 → 18"]
    assert plan.stages["pairs"] | {"action": "may run", "after": ["fetch"], "causes": []} == plan.stages["pairs"]
    assert plan.stages["pairs"]["bytes"] == Path("out/pairs/file").stat().st_size
    rows = said().splitlines()
    assert re.fullmatch(r"16 of 26 stages would run \(.+B last time\), 10 may \(.+B last time\)\.", rows[0])
    assert any(
        re.fullmatch(r"run +fetch, base, judge, sft, candidates, +[\d.]+ k?B  seed: 17 → 18", row) for row in rows
    )
    assert len(rows) <= 12


def test_outputs_that_are_gone_or_changed_by_hand_come_from_the_cache(restored: Path, said: Said) -> None:
    """And what reads them does not follow: DVC puts back the bytes that it has read."""
    append("out/align/dpo/file", "by hand")
    Path("out/fetch/file").unlink()
    Path("out/fetch").rmdir()
    plan = Plan(said("--json"))
    assert plan.that("from cache") == {"fetch", "align@dpo"} == set(plan.stages)
    assert plan.why("align@dpo") == ["out/align/dpo/file, its output, changed: your change is lost"]
    assert plan.why("fetch") == ["its output is missing"]


def test_without_any_output_only_check_runs(restored: Path, said: Said) -> None:
    shutil.rmtree("out")
    plan = Plan(said("--json"))
    assert plan.that("run") == {"check"} and len(plan.that("from cache")) == 25


def test_an_output_that_dvc_no_longer_has_is_made_again(project: Path, said: Said) -> None:
    lock = read_yaml(Path("dvc.lock"))["stages"]["tournament"]["outs"][0]["md5"]
    entry = Path(".dvc/cache/files/md5", lock[:2], lock[2:])
    content = entry.read_bytes()
    entry.unlink()
    try:
        plan = Plan(said("--json"))
        assert plan.that("run") == {"tournament"} and plan.why("tournament") == ["its output is not in DVC's cache"]
    finally:
        entry.write_bytes(content)


def test_data_of_ones_own(project: Path, said: Said) -> None:
    append("data/mine.jsonl", "{}\n")
    plan = Plan(said("--json"))
    assert plan.that("run") == {"fetch"} and plan.why("fetch") == ["data/mine.jsonl added"]
    assert len(plan.that("may run")) == 24  # all others but check


@pytest.mark.campaign
def test_a_value_taken_back_comes_from_the_run_cache_as_dvc_then_does(
    restored: Path, said: Said, caplog: pytest.LogCaptureFixture
) -> None:
    edit_params("runs.dpo.beta", 0.2)
    before = Plan(said("--json"))
    caplog.set_level("INFO", "dvc")
    dvc("repro")
    done = caplog.text
    ran = set(re.findall(r"Running stage '(.+)'", done))
    assert before.that("run") <= ran <= before.that("run") | before.that("may run")
    assert ran == {"check", "align@dpo", *OF_DPO, *LAST}
    git(restored, "checkout", "-q", "params.yaml")
    plan = Plan(said("--json"))
    assert plan.that("run") == {"check"}  # which is never taken from the run cache, since it removes leftovers
    assert plan.that("from cache") == ran - {"check"} and not plan.that("may run")
    assert plan.why("align@dpo") == ["runs.dpo.beta: 0.2 → 0.3"]
    assert plan.why("kl@dpo") == ["out/align/dpo will have other bytes", "out/sample/dpo will have other bytes"]
    assert "other bytes in out/align/dpo, out/sample/dpo" in said()
    caplog.clear()
    dvc("repro")
    done = caplog.text
    assert re.findall(r"Running stage '(.+)'", done) == ["check"]
    assert set(re.findall(r"Stage '(.+)' is cached - skipping run", done)) == ran - {"check"}


def test_edits_that_were_not_committed_when_the_stage_ran(project: Path, said: Said) -> None:
    """The folder was run with one file edited; the next edit is still found, and an edit of the first is not."""
    estimators, records = (f"src/epsilon_dpo/analysis/kl/{name}.py" for name in ("estimators", "records"))
    append(estimators, "\n# by then\n")
    dvc("commit", "-fq", "kl")
    append(records, "\n# now\n")
    assert Plan(said("--json")).why("kl@dpo") == [f"{records} changed in comments, docstrings or layout only"]
    append(estimators, "\n# now\n")
    (why,) = Plan(said("--json")).why("kl@dpo")
    assert re.fullmatch(r"src/epsilon_dpo/analysis/kl: 4 files of .+B → 4 files of .+B \(git .+\)", why)


def test_what_can_be_accepted_is_accepted_by_what_is_printed(project: Path, said: Said) -> None:
    append("src/epsilon_dpo/analysis/kl/fresh.py", "LIMIT = 3\n")
    assert "\n  dvc commit -f check kl\n" in said()
    dvc("commit", "-fq", "check", "kl")
    assert said() == "All 26 stages are up to date: `dvc repro` would run nothing.\n"


def test_only_what_ci_allows(project: Path, said: Said) -> None:
    said("--assert-only", "nothing")
    edit_params("runs.dpo.beta", 0.25)
    said("--assert-only", "check", "*@dpo", "tournament", "figures", "report")
    with pytest.raises(SystemExit) as ended:
        said("--assert-only", "align@dpo", "report")
    assert ended.value.code == (
        "ERROR: stages other than align@dpo and report would run: check, sample@dpo, score@dpo, kl@dpo, "
        "monotonicity@dpo, tournament, figures; `epsilon-dpo plan` says why."
    )
    said("judge", "--assert-only", "check")  # of a target, what lies before it


def test_a_dependency_is_hashed_once_however_many_stages_read_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_params("seed", 18)
    hashed: Counter[str] = Counter()
    build = Dependency._build

    def counted(dep: Dependency, odb: Any, path: str, *others: Any, **options: Any) -> Any:
        hashed[path] += 1
        return build(dep, odb, path, *others, **options)

    monkeypatch.setattr(Dependency, "_build", counted)
    _, steps = planned()
    assert sum(step.action == "run" for step in steps) > 10
    assert str(project / "src/epsilon_dpo/pipeline/stage") in hashed and set(hashed.values()) == {1}


def test_asking_changes_no_file(project: Path, said: Said) -> None:
    edit_params("seed", 18)
    append(DPO, "\n# a comment\n")
    before = contents(project)
    said()
    said("--json")
    assert contents(project) == before


def test_while_dvc_is_at_work(project: Path, said: Said) -> None:
    """It needs no lock; DVC's own file names who writes."""
    repo = Repo(".")
    with repo.lock:
        assert "All 26 stages" in said()
    Path(".dvc/tmp/rwlock").write_text(json.dumps({"write": {"/x": {"pid": 1, "cmd": "dvc repro"}}, "read": {}}))
    assert said().startswith("DVC is at work here (dvc repro, PID 1): this is the plan of this moment.\n")
    Path(".dvc/tmp/rwlock").unlink()


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("dvc.lock", "<<<<<<< ours\n", "DVC cannot read this project: .*'dvc.lock', YAML file structure is corrupted."),
        ("params.yaml", "a: [\n", "params.yaml is not valid YAML: .*params.yaml.*, line .*"),
        (DPO, "def (\n", f"{DPO}: line .* is not valid Python .*; correct it."),
    ],
)
def test_what_cannot_be_read_is_one_sentence(project: Path, said: Said, file: str, text: str, sentence: str) -> None:
    append(file, text)
    with pytest.raises(SystemExit, match=f"ERROR: {sentence}"):
        said()


def test_it_is_asked_in_the_projects_root(project: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project / "src")
    with pytest.raises(SystemExit, match="run from the project's root"):
        said()
