"""The replicates of a level: one after the other, and only such as are alike."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from study_by_hand import CLAIM, LEVELS

from epsilon_dpo.cli import main
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import write_csv, write_json
from epsilon_dpo.pipeline.stage.manifest import weights_digests, write_manifest
from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.study import replicate
from epsilon_dpo.study.collect import (
    collect,
    known_replicates,
    made_from,
    read_results,
    refuse_other_settings,
    results_folder,
)

RUNS = "base: {path: its/model, revision: its, dtype: float32}\nruns:\n  dpo: {method: dpo, beta: 0.1, seed: 5}\n"


@pytest.fixture
def project(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a study of three replicates, whose reproduction writes down its seed."""
    Path("presets").mkdir()
    content = {"confidence": 0.95, "levels": LEVELS, "claims": [CLAIM]}
    Path("study/claims.yaml").write_text(yaml.safe_dump(content), "utf-8")
    Path("presets/by-hand.yaml").write_text(f"# By hand.\nseed: 1\nthreads: 2\n{RUNS}", "utf-8")
    ours = f"# By hand.\nseed: 3\nthreads: 8\n{RUNS}".replace("its", "my")
    Path("params.yaml").write_text(ours, "utf-8")
    Path("pins.yaml").write_text('torch: "2.13.0"\ntransformers: "5.0"\n', "utf-8")

    def collected(level: str, at: Path) -> tuple[int, int, str]:
        seed = yaml.safe_load((at / "params.yaml").read_text("utf-8"))["seed"]
        folder = results_folder(level)
        folder.mkdir(parents=True, exist_ok=True)
        made = made_from(at, read_yaml(at / "params.yaml"))
        write_json(folder / "replicates.json", known_replicates(level) | {str(seed): made})
        write_csv(folder / "policies.csv", [*read_results(level), {"seed": seed, "run": "dpo"}])
        return 1, 0, ""

    monkeypatch.setattr(replicate, "collect", collected)
    monkeypatch.setattr(replicate, "summarise", lambda *_: "")
    command = here / "bin" / "dvc"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\ngrep -m1 ^seed params.yaml >> reproduced\ntest ! -e broken\n", "utf-8")
    command.chmod(0o755)
    monkeypatch.setattr(replicate.sys, "executable", str(command.parent / "python"))  # of a .venv not activated
    return here


def test_the_replicates_run_one_after_the_other_and_go_on_where_one_stopped(project: Path) -> None:
    Path("broken").touch()
    with pytest.raises(UserError, match=r"the replicate of seed 1 stopped \(`dvc repro` ended with 1\)"):
        replicate.run_level("controlled")
    Path("broken").unlink()
    pretrained(seed=3, weights=b"of other params")
    ours = made_from(Path(), read_yaml(Path("params.yaml"))) | {"model": {"model.safetensors": "ours"}}
    results_folder("controlled").mkdir(parents=True)
    write_json(results_folder("controlled") / "replicates.json", {"1": ours})
    assert replicate.run_level("controlled") == "level controlled has its 3 replicates: study/results/controlled"
    assert Path("reproduced").read_text("utf-8").split() == ["seed:", "1", "seed:", "1", "seed:", "2", "seed:", "3"]
    left = Path("params.yaml").read_text("utf-8")
    assert "seed: 5" in left, "the seed of a run is its own"
    assert "path: my/model, revision: my" in left and "threads: 8" in left, "and so are a user's paths and threads"
    replicate.run_level("controlled")
    assert len(Path("reproduced").read_text("utf-8").splitlines()) == 4, "what has results is not run again"


def test_a_replicate_that_would_be_refused_afterwards_does_not_run(project: Path) -> None:
    """As after a run of one's own was added to a level that has results."""
    Path("broken").touch()
    with pytest.raises(UserError, match="the replicate of seed 1 stopped"):
        replicate.run_level("controlled")
    replicate.collect("controlled", Path())
    for file in ("presets/by-hand.yaml", "params.yaml"):
        with Path(file).open("a", encoding="utf-8") as text:
            text.write("  mine: {method: dpo, beta: 0.2}\n" if file != "params.yaml" else "")
    Path("params.yaml").write_text(Path("presets/by-hand.yaml").read_text("utf-8"), "utf-8")
    with pytest.raises(UserError, match="differs in more than the seed from that of the replicate of seed 1"):
        replicate.run_level("controlled")
    assert Path("reproduced").read_text("utf-8").count("seed") == 1, "nothing ran in vain"


@pytest.mark.parametrize(("ours", "its"), [("float32", "bfloat16"), ("seed: 5", "seed: 6"), ("beta: 0.1", "beta: 1")])
def test_a_level_is_run_and_collected_with_its_presets_params(project: Path, ours: str, its: str) -> None:
    """Also where every replicate is there already: what they say is not what params.yaml describes."""
    replicate.run_level("controlled")
    text = Path("params.yaml").read_text("utf-8")
    Path("params.yaml").write_text(text.replace(ours, its), "utf-8")
    assert ours in text
    with pytest.raises(
        UserError, match=r"params.yaml is not made from presets/by-hand.yaml \((base|runs) differs\): cp"
    ):
        replicate.run_level("controlled")
    with pytest.raises(UserError, match=rf"(base|runs) of {project}/params.yaml is not that of presets/by-hand.yaml"):
        collect("controlled", project)


def test_ctrl_c_ends_the_study_without_a_traceback(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run

    def interrupted(command: list[str], **options: Any) -> Any:
        if command[0] == "dvc":
            raise KeyboardInterrupt
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", interrupted)
    with pytest.raises(SystemExit) as end:
        main(["study", "run", "controlled"])
    assert end.value.code == 130 and "seed: 1" in Path("params.yaml").read_text("utf-8")


def test_a_level_that_cannot_be_run_says_why(project: Path) -> None:
    with pytest.raises(UserError, match="no level is called paper; there are controlled"):
        replicate.run_level("paper")
    Path("params.yaml").write_text("seed: 3\nruns: {mine: {method: dpo, beta: 0.5}}\n", "utf-8")
    with pytest.raises(UserError, match=r"not made from presets/by-hand.yaml \(base differs\): cp presets/"):
        replicate.run_level("controlled")
    rate = "runs:\n  dpo: {method: dpo, beta: 0.1, learning_rate: 1e-3}\n"  # which YAML 1.1 reads as a text
    for file in ("presets/by-hand.yaml", "params.yaml"):
        Path(file).write_text(f"seed: 1\n{rate}", "utf-8")
    replicate.run_level("controlled")


def test_two_that_run_a_level_at_once_do_not_change_each_others_seed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage ends with an error, after its work, where params.yaml has changed."""

    def meanwhile(*_: Any) -> None:
        with pytest.raises(UserError, match=r"^another process, pid \d+, is running study; wait for it or stop it"):
            replicate.run_level("controlled")
        raise UserError("the first goes on")

    monkeypatch.setattr(replicate, "collect", meanwhile)
    with pytest.raises(UserError, match="the first goes on"):
        replicate.run_level("controlled")
    assert Path("reproduced").read_text("utf-8").split() == ["seed:", "1"]


def test_two_replicates_collected_at_once_do_not_lose_one(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first wrote the results as it had read them, before the second had added its own."""

    def meanwhile(of: Path) -> None:
        with pytest.raises(UserError, match=r"^another process, pid \d+, is running collect@controlled; wait for it"):
            collect("controlled", of)
        raise UserError("the first goes on")

    monkeypatch.setattr("epsilon_dpo.study.collect.refuse_unfinished", meanwhile)
    with pytest.raises(UserError, match="the first goes on"):
        collect("controlled", project)


def test_only_replicates_that_are_alike_are_collected(project: Path) -> None:
    """Before anything is read of what they made, which is not there."""
    with pytest.raises(UserError, match="no level is called controled; there are controlled"):
        collect("controled", project)
    params, made = Path("params.yaml").read_text("utf-8"), made_from(project, read_yaml(Path("params.yaml")))
    Path("params.yaml").write_text(params.replace("seed: 3", "seed: 9", 1), "utf-8")
    with pytest.raises(UserError, match=r"has no replicate of seed 9 \(study/claims.yaml has \[1, 2, 3\]\)"):
        collect("controlled", project)
    Path("params.yaml").write_text(params.replace("beta: 0.1", "beta: 0.2"), "utf-8")
    with pytest.raises(UserError, match=rf"block runs of {project}/params.yaml is not that of presets/by-hand.yaml"):
        collect("controlled", project)
    folder = results_folder("controlled")
    folder.mkdir(parents=True)

    def collect_among(known: dict[str, Any]) -> None:
        write_json(folder / "replicates.json", known)
        collect("controlled", project)

    Path("params.yaml").write_text(params, "utf-8")
    with pytest.raises(UserError, match=r"differs in more than the seed from that of the replicate of seed 1"):
        collect_among({"1": made | {"params": "others"}})
    ours = pretrained(seed=3, weights=b"ours")
    with pytest.raises(UserError, match=r"model at base.path of .* is another than that of the replicate of seed 1"):
        collect_among({"1": made | {"model": {"model.safetensors": "theirs"}}})
    alike = params.replace("seed: 3", "seed: 2", 1).replace("my/model", "elsewhere")
    Path("params.yaml").write_text(f"# mine\n{alike}", "utf-8")
    with pytest.raises(
        UserError, match="DVC"
    ):  # a comment is no value, seed and path are its own; but it is no project
        collect_among({"1": made | {"model": ours}})


def pretrained(seed: int, weights: bytes) -> dict[str, str]:
    """What stage base leaves of a pretrained model, whose manifest has the seed; the sha256 of its weights."""
    folder = Path("out/base/model")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights)
    write_manifest(folder, "base", {"seed": seed})
    return weights_digests(folder, remember=False)


def test_replicates_of_one_pretrained_model_differ_in_the_seed_of_its_manifest(project: Path) -> None:
    """By which the folder's md5 differs: the second replicate of level smollm2 was refused for another model."""
    params = read_yaml(Path("params.yaml"))
    made = []
    for seed, weights in ((1, b"ours"), (2, b"ours"), (3, b"another's")):
        pretrained(seed, weights)
        made.append(made_from(project, params | {"seed": seed}))
    assert made[0]["model"]
    refuse_other_settings(made[1], 2, {"1": made[0]}, project, Path("study"))
    with pytest.raises(UserError, match="is another than that of the replicate of seed 1"):
        refuse_other_settings(made[2], 3, {"1": made[0]}, project, Path("study"))


def test_the_commit_is_that_of_the_project_wherever_the_study_lies(here: Path) -> None:
    project = here / "project"
    git = ["git", "-C", str(project), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "a"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (project / "pins.yaml").write_text('torch: "2.13.0"\ntransformers: "5.0"\n', "utf-8")
    assert made_from(project, {"seed": 1})["commit"] == commit and len(commit) == 40


def test_changes_that_no_commit_has_are_those_that_decide_what_is_computed(here: Path) -> None:
    """And not what a study itself writes; where git says nothing, there may be some."""
    project = here / "project"
    written = [project / name for name in ("params.yaml", "study/results/a/policies.csv", "docs/replication.md")]
    for file in (*written, project / "src/a.py"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("", "utf-8")
    (project / "pins.yaml").write_text('torch: "2.13.0"\ntransformers: "5.0"\n', "utf-8")
    assert made_from(project, {"seed": 1})["uncommitted_changes"] is True, "no git here"
    git = ["git", "-C", str(project), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *command], check=True)
    for file in written:
        file.write_text("seed: 2\n", "utf-8")
    assert made_from(project, {"seed": 1})["uncommitted_changes"] is False
    (project / "src/a.py").write_text("b = 1\n", "utf-8")
    assert made_from(project, {"seed": 1})["uncommitted_changes"] is True


def test_the_same_model_may_lie_elsewhere_and_no_other_model_may(project: Path) -> None:
    """The judge of level smollm2 starts from base's model, too."""

    def params(base: str, judge: str) -> str:
        model = {"path": judge, "revision": "a" * 40}
        blocks = {"seed": 1, "base": {"path": base, "revision": "a" * 40}, "judge": {"model": model}}
        return str(made_from(project, blocks)["params"])

    assert params("ours", "ours") == params("elsewhere", "elsewhere") != params("ours", "another")
