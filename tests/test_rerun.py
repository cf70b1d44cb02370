"""A change of any number in params.yaml, or of a package's version, re-runs exactly the stages that it affects, as DVC
itself sees it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo
from dvc.utils.serialize import dump_yaml, load_path, load_yaml

ROOT = Path(__file__).resolve().parent.parent
PARAMS = load_yaml(str(ROOT / "params.yaml"))
RUNS = list(PARAMS["runs"])
PER_RUN = ("align", "sample", "score", "kl", "monotonicity")

ALIGN = {f"{stage}@{run}" for run in RUNS for stage in PER_RUN}
SAMPLED = {f"{stage}@{run}" for run in RUNS for stage in ("sample", "score")}
SCORES = {f"score@{run}" for run in RUNS}
KLS = {f"kl@{run}" for run in RUNS}
MONOTONICITIES = {f"monotonicity@{run}" for run in RUNS}
AFTER_SFT = {"sft", "candidates", "reference", "controls", "tournament", "figures", "report"} | ALIGN
AFTER_REFERENCE = {"reference", "controls", "tournament", "figures", "report"} | SCORES | KLS
AFTER_VALIDATE = {"validate", "judge", "ranking", "pairs", "margins", "scorer"} | AFTER_SFT

# Stages whose output is always the same bytes; without candidates there are none to rank either, and nobody asks for
# margins or a scorer.
CONSTANT = {"check", "candidates", "ranking", "margins", "scorer"}

# By hand: first key of a leaf -> the stages that must run again when it changes. `check` always does. A leaf of
# `runs` is treated below.
TABLE = {
    "seed": {"fetch", "base"} | AFTER_VALIDATE,
    "threads": {"judge", "ranking", "margins", "scorer"} | AFTER_SFT,
    "confidence": {"judge", "ranking", "margins", "scorer", "controls", "tournament", "figures", "report"}
    | SCORES
    | KLS
    | MONOTONICITIES,
    "checkpoints": set(),
    "fetch": {"fetch", "base"} | AFTER_VALIDATE,
    "base": {"base"} | AFTER_VALIDATE,
    "tokens": AFTER_VALIDATE,
    "validate": AFTER_VALIDATE,
    "judge": {"judge", "ranking", "margins", "scorer", "controls", "tournament", "figures", "report"} | SCORES,
    "teacher": {"judge", "ranking", "margins", "scorer", "controls", "tournament", "figures", "report"} | SCORES,
    "sft": AFTER_SFT,
    "candidates": {"candidates"},
    "pairs": {"pairs", "margins", "scorer", "tournament", "figures", "report"} | ALIGN,
    "margins": {"margins", "report"},
    "scorer": {"scorer", "report"},
    "align": {"tournament", "figures", "report"} | ALIGN,
    "sample": AFTER_REFERENCE | SAMPLED,
    "kl": {"figures", "report"} | KLS,
    "monotonicity": {"figures", "report"} | MONOTONICITIES,
    "tournament": {"tournament", "report"},
    "figures": {"figures", "report"},
    "report": {"report"},
}


def leaves(block: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in block.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def changed(value: Any) -> Any:
    """Another value; it need not be a valid one, since nothing runs."""
    return value + 1 if isinstance(value, int | float) and not isinstance(value, bool) else f"not {value}"


LEAVES = list(leaves(PARAMS))


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """The project's dvc.yaml and params.yaml in a repository of their own."""
    root = tmp_path_factory.mktemp("rerun")
    Repo.init(str(root), no_scm=True)
    for name in ("dvc.yaml", "params.yaml", "pins.yaml"):
        shutil.copy(ROOT / name, root)
    repo = Repo(str(root))
    assert len(repo.index.graph) == 16 + len(PER_RUN) * len(RUNS)  # resolved once, here, before any change
    return repo


@pytest.fixture(scope="module", autouse=True)
def each_content_is_parsed_once() -> Iterator[None]:
    """DVC parses params.yaml anew for every stage, a second in all."""
    parsed: dict[str, Any] = {}

    def load(path: str, fs: Any, **settings: Any) -> Any:
        text = Path(path).read_text("utf-8")
        if text not in parsed:
            parsed[text] = load_path(path, fs, **settings)
        return parsed[text]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dvc.dependency.param.load_path", load)
        yield


def reading(repo: Repo) -> dict[str, dict]:
    """What DVC reads of params.yaml and pins.yaml for each stage now: its `params:`, or the file where the file is a
    dependency."""
    found: dict[str, dict] = {}
    for stage in repo.index.stages:
        for dep in stage.deps:
            if isinstance(dep, ParamsDependency):
                found.setdefault(stage.name, {})[dep.def_path] = dep.read_params()
            elif dep.def_path == "params.yaml":
                found.setdefault(stage.name, {})["params.yaml"] = Path(dep.fs_path).read_text("utf-8")
    return found


def with_descendants(repo: Repo, direct: set[str]) -> set[str]:
    """`direct` and all that follows from it; nothing follows a stage whose output is constant."""
    graph = repo.index.graph  # edges point from a stage to what it needs
    affected = set(direct)
    grown = True
    while grown:
        grown = False
        for stage, needed in graph.edges():
            if needed.name in affected - CONSTANT and stage.name not in affected:
                affected.add(stage.name)
                grown = True
    return affected


def test_the_table_has_every_block() -> None:
    assert set(TABLE) | {"runs"} == set(PARAMS)
    assert len(LEAVES) > 70


@pytest.mark.parametrize("leaf", LEAVES, ids=".".join)
def test_a_changed_leaf_reruns_exactly(repo: Repo, leaf: tuple[str, ...]) -> None:
    params_file = Path(repo.root_dir) / "params.yaml"
    before = reading(repo)
    content = load_yaml(str(ROOT / "params.yaml"))
    block = content
    for key in leaf[:-1]:
        block = block[key]
    block[leaf[-1]] = changed(block[leaf[-1]])
    dump_yaml(str(params_file), content)
    try:
        direct = {stage for stage, values in reading(repo).items() if values != before[stage]}
    finally:
        shutil.copy(ROOT / "params.yaml", params_file)
    if leaf[0] == "runs":
        run = leaf[1]
        expected = {f"{stage}@{run}" for stage in PER_RUN} | {"tournament", "figures", "report"}
    else:
        expected = TABLE[leaf[0]]
    assert with_descendants(repo, direct) == expected | {"check"}


def test_a_policys_kl_follows_from_its_own_answers_and_from_the_pairs(repo: Repo) -> None:
    """No number of params.yaml changes these alone, so the table cannot tell."""
    run = RUNS[0]
    assert f"kl@{run}" in with_descendants(repo, {f"sample@{run}"})
    needed = {target.name for stage, target in repo.index.graph.edges() if stage.name == f"kl@{run}"}
    assert needed == {"base", "sft", "reference", "pairs", f"align@{run}", f"sample@{run}"}


# By hand, as stages import them.
JUDGED = {"ranking", "margins", "controls", "tournament"} | SCORES
WITH_MODELS = {"base", "judge", "sft", "candidates", "reference", "scorer"} | JUDGED | ALIGN
UPGRADES = {
    "torch": WITH_MODELS,
    "transformers": WITH_MODELS | {"validate", "pairs"},
    "trl": {"judge", "sft"},
    "matplotlib": {"figures", "report"},
    "great_expectations": {"validate"},
    "pyarrow": {"fetch", "judge", "sft"},
    "vaderSentiment": JUDGED | {"judge", "scorer"},  # a judge: it trains no policy of given pairs again
}


@pytest.mark.parametrize("package", UPGRADES)
def test_an_upgraded_package_reruns_exactly_the_stages_that_import_it(repo: Repo, package: str) -> None:
    file = Path(repo.root_dir) / "pins.yaml"
    before = reading(repo)
    text = file.read_text("utf-8")
    line = f'\n{package}: "'
    assert text.count(line) == 1
    file.write_text(text.replace(line, f"{line}9"), "utf-8")
    try:
        direct = {stage for stage, values in reading(repo).items() if values != before[stage]}
    finally:
        file.write_text(text, "utf-8")
    assert direct == UPGRADES[package]


def test_a_pin_of_the_tests_and_checks_reruns_nothing(repo: Repo) -> None:
    lines = (ROOT / "requirements-dev.txt").read_text("utf-8").splitlines()
    packages = {line.split("==")[0] for line in lines if "==" in line}
    assert "pytest" in packages and not packages & set(load_yaml(str(ROOT / "pins.yaml")))
    watched = {dep.def_path for stage in repo.index.stages for dep in stage.deps}
    assert {"params.yaml", "pins.yaml"} <= watched and not [path for path in watched if "requirements" in path]
