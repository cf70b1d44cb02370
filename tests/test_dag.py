"""dvc.yaml against the code it runs: names, imports, params. DVC itself resolves the file."""

import ast
import importlib
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from epsilon_dpo.check.params_file import ParamsFile
from epsilon_dpo.judging.scorer.code import PACKAGES
from epsilon_dpo.pipeline.code.imports import imported_names
from epsilon_dpo.pipeline.stage.fingerprint import stage_entry
from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.training.loop.params import CheckpointsView

sys.path.insert(0, str(Path(__file__).parent))
from closure import (
    EXEMPT,
    ONLINE,
    ROOT,
    SCORER,
    closure,
    code_deps,
    covered_files,
    covered_without_need,
    needed_files,
    pins,
    stage_pins,
)
from data_deps import STUBS

STAGES = read_yaml(ROOT / "dvc.yaml")["stages"]
CODE = ("stages/", "src/")


def entry(stage: str) -> dict:
    return STAGES[stage].get("do", STAGES[stage])


def paths(outs: list) -> list[str]:
    """Of the outputs; one with settings is a mapping of its path to them."""
    return [out if isinstance(out, str) else next(iter(out)) for out in outs]


ELSEWHERE = {stage: f"out/{stage}_usage" for stage in ("ranking", "margins")} | {"judge": "out/teacher"}


def test_one_name_in_every_place() -> None:
    files = sorted(path.stem for path in (ROOT / "stages").glob("[a-z]*.py"))
    assert sorted(STAGES) == files
    assert len(files) == 21
    for stage in STAGES:
        assert entry(stage)["cmd"].split()[:3] == ["python", "-m", f"stages.{stage}"]
        for out in paths(entry(stage)["outs"]):
            assert out.split("/")[:2] == ["out", stage] or out == ELSEWHERE.get(stage)


def declared_code(stage: str) -> list[str]:
    return sorted(dep for dep in entry(stage)["deps"] if dep.startswith(CODE))


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_rooms_of_the_import_closure(stage: str) -> None:
    assert declared_code(stage) == code_deps(stage), (
        f"deps of {stage} in dvc.yaml; `python tests/closure.py` prints what they must be"
    )


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "check"])
def test_every_import_is_covered_and_every_dep_is_used(stage: str) -> None:
    """Whatever closure.py makes of it: DVC sees each file that the stage imports, and nothing is declared idly."""
    needed = needed_files(ROOT / "stages" / f"{stage}.py")
    by_name = {dep for dep in declared_code(stage) if "$" in dep}
    covered = {dep: covered_files(dep) for dep in declared_code(stage) if dep not in by_name}
    assert needed <= set().union(*covered.values())
    assert [dep for dep, files in covered.items() if not files & needed] == []


# By hand: files that a stage's folders cover although the stage never imports them. Their change re-runs it without
# need; most of their changes re-run a stage before it anyway. (Online runs do import positions.py, by way of ONLINE.)
WITHOUT_NEED = {
    "align": "data/tokens/params.py data/tokens/positions.py data/tokens/tokenisation.py",
    "base": """data/facts/rows.py data/tokens/positions.py data/tokens/tokenizer.py models/logps/padding.py
        pipeline/stage/runs.py pipeline/stage/runtime.py""",
    "candidates": """pipeline/stage/runs.py sampling/answers/sample_answers.py sampling/decoding/draws.py
        sampling/on_policy/params_ranking.py""",
    "controls": "analysis/intervals/differences.py",
    "fetch": "pipeline/stage/runs.py pipeline/stage/runtime.py",
    "figures": "pipeline/stage/runtime.py",
    "judge": """analysis/intervals/differences.py data/facts/rows.py data/tokens/tokenizer.py judging/scoring/params.py
        judging/scoring/score_answers.py models/base/starting_point.py training/loop/adapters.py
        training/loop/result.py""",
    "kl": """analysis/intervals/bootstrap.py analysis/intervals/differences.py analysis/intervals/win_rates.py
        data/tokens/params.py data/tokens/tokenisation.py data/tokens/positions.py""",
    "margins": "pipeline/stage/runs.py",
    "monotonicity": """analysis/intervals/bootstrap.py analysis/intervals/differences.py analysis/intervals/win_rates.py
        data/tokens/params.py data/tokens/tokenisation.py data/tokens/positions.py pipeline/stage/runs.py""",
    "pairs": "data/tokens/positions.py pipeline/stage/runs.py pipeline/stage/runtime.py",
    "ranking": "pipeline/stage/runs.py sampling/on_policy/params_candidates.py",
    "reference": "sampling/decoding/draws.py",
    "report": "pipeline/stage/runtime.py",
    "sample": "sampling/decoding/draws.py",
    "score": "analysis/intervals/differences.py",
    "scorer": "pipeline/stage/runs.py pipeline/stage/runtime.py",
    "sft": "pipeline/stage/runs.py",
    "tournament": "judging/scoring/params.py judging/scoring/score_answers.py",
    "validate": "data/tokens/positions.py pipeline/stage/runs.py pipeline/stage/runtime.py",
}


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "check"])
def test_files_covered_without_need_are_those_written_down(stage: str) -> None:
    found = {file.removeprefix("src/epsilon_dpo/") for file in covered_without_need(stage)}
    assert found == set(WITHOUT_NEED.get(stage, "").split())


def test_what_online_runs_need_is_a_dependency_of_stage_align_or_of_stage_scorer() -> None:
    """Stage align imports it by name, where no closure sees it: else every judge would be a dependency of every run."""
    of_align = set().union(*(covered_files(dep) for dep in declared_code("align") if "$" not in dep))
    needed = {str(file.relative_to(ROOT)) for file in closure(ONLINE)} - set(EXEMPT)
    carried = needed - of_align
    assert carried <= needed_files(SCORER) and "src/epsilon_dpo/judging/judges/loading.py" in carried
    name = ".".join(ONLINE.relative_to(ROOT / "src").with_suffix("").parts)
    assert f'ONLINE = "{name}"' in (ROOT / "stages" / "align.py").read_text("utf-8")
    assert sorted(set(pins(ONLINE)) - set(declared_pins("align"))) == PACKAGES


def test_what_is_exempt_would_retrain_every_policy() -> None:
    """An exemption weakens the proof, so it is only for what would cost most."""
    assert {ROOT / file for file in EXEMPT} <= set(closure(ROOT / "stages" / "align.py"))


@pytest.mark.parametrize("file", EXEMPT)
def test_what_stands_for_an_exempt_file_has_every_name_that_a_stage_imports_from_it(file: str) -> None:
    """Else the slow proof that no output depends on the file ends at the first import."""
    module = ".".join(Path(file).relative_to("src").with_suffix("").parts)
    needed = set().union(*(needed_files(ROOT / "stages" / f"{stage}.py") for stage in STAGES))
    names = {name for path in needed for name in imported_names(ROOT / path)}
    namespace: dict = {}
    exec(STUBS[Path(file).name], namespace)
    assert {name.removeprefix(f"{module}.") for name in names if name.startswith(f"{module}.")} <= set(namespace)


def declared_pins(stage: str) -> list[str]:
    named = [name for name in entry(stage).get("params", []) if isinstance(name, dict)]
    assert all(list(name) == ["pins.yaml"] for name in named) and len(named) <= 1
    return [package for name in named for package in name["pins.yaml"]]


@pytest.mark.parametrize("stage", STAGES)
def test_params_hold_the_pins_of_the_import_closure(stage: str) -> None:
    assert declared_pins(stage) == stage_pins(stage), (
        f"params of {stage} in dvc.yaml; `python tests/closure.py` prints what they must hold of pins.yaml"
    )


def test_init_files_hold_no_code() -> None:
    """They are left out of `deps`, so they must not be able to change a result."""
    inits = sorted((ROOT / "src").rglob("__init__.py"))
    assert len(inits) >= 5
    for file in inits:
        body = ast.parse(file.read_text("utf-8")).body
        assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body), file


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "check"])
def test_a_stage_reads_exactly_the_params_it_declares(stage: str) -> None:
    """By full dotted keys: the view that a stage loads has one field per declared key, and where the stage names its
    run to `load`, that run's entry of `runs`."""
    tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text("utf-8"))
    modules = {
        alias.name: node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert "read_yaml" not in modules
    read = set()
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "load":
            view = ast.unparse(call.args[0])
            names = {field.alias or name for name, field in loaded(modules[view], view).items()}
            own = {"runs": "runs.${key}"} if [ast.unparse(k) for k in call.keywords] == ["run=run"] else {}
            read |= {own.get(name, name) for name in names}
    assert read == {name for name in entry(stage).get("params", []) if isinstance(name, str)}


def test_stage_check_depends_on_the_file_of_params_and_on_no_key() -> None:
    """It reads all of it, whatever the keys are called."""
    declared = entry("check")
    assert "params.yaml" in declared["deps"]
    assert [name for name in declared.get("params", []) if isinstance(name, str)] == []


def test_only_how_often_is_saved_is_read_and_not_declared() -> None:
    """No output depends on it, which the tests of resumed trainings show; so no stage declares it."""
    callers = {
        path.stem
        for path in (ROOT / "stages").glob("*.py")
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "save_steps"
    }
    assert callers == {"judge", "sft", "align"}
    named = {name.split(".")[0] for stage in STAGES for name in entry(stage).get("params", []) if isinstance(name, str)}
    read = {field.alias or name for name, field in ParamsFile.model_fields.items()}
    assert read - named == set(CheckpointsView.model_fields) == {"checkpoints"}
    readers = [
        path.stem
        for path in (ROOT / "src").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call).startswith("load(CheckpointsView")
    ]
    assert readers == ["params"]


def loaded(module: str, view: str) -> dict:
    assert module.rpartition(".")[2].startswith("params"), module
    return getattr(importlib.import_module(module), view).model_fields


HEAVY = {
    "torch",
    "transformers",
    "trl",
    "great_expectations",
    "mlflow",
    "matplotlib",
    "datasets",
    "pandas",
    "scipy.stats",
}
TRAINING = {"torch", "transformers"}
NEEDED: list[dict[str, set[str]]] = [  # by stages that may import the same; each entry also what those before it may
    {
        "check fetch": set(),
        "pairs": {"transformers"},
        "sample kl score": TRAINING,
        "align": TRAINING | {"datasets", "pandas"},  # transformers.Trainer brings them
    },
    {"validate": {"great_expectations", "pandas", "transformers", "scipy.stats"}},
    {"figures report": {"matplotlib"}},
]
IMPORT = """
import importlib, sys

for modules in {modules}:
    for module in modules:
        importlib.import_module(module)
    print(*sorted({heavy} & set(sys.modules)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("needed", NEEDED, ids=" ".join)
def test_stages_import_nothing_heavy_that_they_do_not_use(needed: dict[str, set[str]]) -> None:
    """A stage is a process and pays for what it imports: torch 2 s, great_expectations 3 s, mlflow 2 s.

    One process imports for all in turn: what is there after a stage's imports holds all that they would bring alone.
    """
    assert all(before <= after for before, after in itertools.pairwise(needed.values()))
    script = IMPORT.format(modules=[imported(stages.split()) for stages in needed], heavy=HEAVY)
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    for (stages, allowed), line in zip(needed.items(), printed.splitlines(), strict=True):
        assert set(line.split()) <= allowed, stages


def imported(stages: list[str]) -> list[str]:
    """The package's modules that these stages import."""
    files = {file for stage in stages for file in closure(ROOT / "stages" / f"{stage}.py")}
    return sorted(
        ".".join(file.relative_to(ROOT / "src").with_suffix("").parts)
        for file in files
        if file.is_relative_to(ROOT / "src")
    )


def test_only_the_writer_imports_mlflow() -> None:
    importers = [
        path.relative_to(ROOT / "src" / "epsilon_dpo").parts[0]
        for path in sorted((ROOT / "src").rglob("*.py"))
        if any(
            isinstance(node, ast.Import | ast.ImportFrom)
            and "mlflow"
            in ast.unparse(node).split("import")[0 if isinstance(node, ast.ImportFrom) else 1].split(".")[0]
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
        )
    ]
    assert importers and set(importers) == {"mlflow_writer"}


def test_fingerprint_reads_the_stage_as_dvc_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from dvc.repo import Repo

    monkeypatch.chdir(ROOT)
    run = list(read_yaml(ROOT / "params.yaml")["runs"])[-1]
    resolved = Repo(str(ROOT)).stage.collect(f"align@{run}")[0]
    ours = stage_entry("align", run)
    assert ours["cmd"] == resolved.cmd
    deps = {str(dep) for dep in resolved.deps if not hasattr(dep, "params")}
    assert deps == set(ours["deps"])
