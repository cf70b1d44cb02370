"""docs/extending.md: its source, judge and stage, applied to a copy of the repository, are accepted and work there."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from recipes import add_all, blocks, change, copy_repository, python, section, write_new
from ruamel.yaml import YAML
from whole_pipeline import ROOT, dvc

from epsilon_dpo.data.sources.generated import read_synthetic
from epsilon_dpo.data.sources.loading import read_source
from epsilon_dpo.data.sources.params import FetchView, SyntheticSource
from epsilon_dpo.pipeline.stage.files import write_jsonl
from epsilon_dpo.pipeline.stage.params import parse, read_yaml

PAGE = "docs/extending.md"
SOURCE, JUDGE, STAGE = "A dataset source", "A judge", "A stage"
SIDES = ("chosen", "rejected")
TESTS = {
    SOURCE: "tests/data/sources/test_jsonl.py",
    JUDGE: "tests/judging/judges/test_longer.py",
    STAGE: "tests/analysis/lengths/test_quantiles.py",
}
# What a recipe touches beside its new files: a number to be kept small.
CHANGED = {
    SOURCE: {"src/epsilon_dpo/data/sources/params.py", "src/epsilon_dpo/data/sources/loading.py"},
    JUDGE: {
        "src/epsilon_dpo/judging/judges/loading.py",
        "src/epsilon_dpo/judging/making/params.py",
        "src/epsilon_dpo/judging/making/sources.py",
        "src/epsilon_dpo/report/page/page.py",
    },
    STAGE: {
        "dvc.yaml",
        "params.yaml",
        "pyproject.toml",
        "src/epsilon_dpo/check/params_file.py",
        "tests/test_rerun.py",
        "tests/test_dag.py",
        "README.md",
    },
}


def add_to_params(file: Path, diff: str) -> None:
    """The new block of a stage, before `report`, in params.yaml or in a preset."""
    text = file.read_text("utf-8")
    assert text.count("\nreport:") == 1 and all(line.startswith("+") for line in diff.splitlines())
    added = "".join(f"{line[1:]}\n" for line in diff.splitlines())
    file.write_text(text.replace("\nreport:", f"\n{added}report:"), "utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with all three recipes. The blocks that choose the source and the judge are left to `choose`."""
    root = copy_repository(tmp_path_factory.mktemp("copy"))
    for heading in TESTS:
        for block in blocks(PAGE, heading):
            if block.language == "yaml":
                continue
            if block.language != "diff":
                write_new(root, block)
            elif block.path == "params.yaml":
                for file in [root / "params.yaml", *sorted((root / "presets").glob("*.yaml"))]:
                    add_to_params(file, block.text)
            else:
                change(root / block.path, block.text)
    add_all(root)
    return root


def new_files(heading: str) -> list[str]:
    return [block.path for block in blocks(PAGE, heading) if block.language == "python"]


def choose(copy: Path, heading: str) -> None:
    """Put the recipe's block into params.yaml, where SFT, which no recipe is about, becomes short."""
    (text,) = (block.text for block in blocks(PAGE, heading) if block.language == "yaml")
    chosen: dict[str, Any] = YAML(typ="safe").load(text)
    content = read_yaml(copy / "params.yaml")
    assert set(chosen) < set(content)
    content["sft"]["max_steps"] = 2
    with (copy / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(content | chosen, file)


@pytest.fixture
def chosen(copy: Path):
    """`choose` for one test."""
    before = (copy / "params.yaml").read_text("utf-8")
    yield lambda heading: choose(copy, heading)
    (copy / "params.yaml").write_text(before, "utf-8")


def write_texts(folder: Path) -> None:
    """data/train.jsonl and data/eval.jsonl, as the recipe's source reads them: pairs of the default's little world."""
    world = SyntheticSource(source="synthetic", train_pairs=1200, eval_share=0.5, label_temperature=1.0)
    dataset = read_synthetic(world, 3)
    folder.mkdir(exist_ok=True)
    for split, rows in (("train", dataset.train), ("eval", dataset.eval)):
        texts = [
            {"prompt": row["chosen"][0]["content"], **{side: row[side][-1]["content"] for side in SIDES}}
            for row in rows
        ]
        write_jsonl(folder / f"{split}.jsonl", texts)


@pytest.mark.parametrize("heading", TESTS)
def test_what_a_recipe_touches(heading: str) -> None:
    assert {block.path for block in blocks(PAGE, heading) if block.language == "diff"} == CHANGED[heading]
    assert TESTS[heading] in new_files(heading)


def test_every_block_is_applied() -> None:
    """A block that no line announces, or announces otherwise, would be code that nothing runs."""
    for heading in TESTS:
        fenced = section(PAGE, heading).count("\n```") // 2
        shapes = section(PAGE, heading).count('{"id": "mine/train/0"')  # what a row looks like
        assert fenced == len(blocks(PAGE, heading)) + shapes


@pytest.mark.slow
def test_the_repository_accepts_them(copy: Path) -> None:
    """ruff, import-linter, their own tests, those that hold one name in every place, `deps`, presets, README."""
    files = [file for heading in TESTS for file in new_files(heading)]
    changed = sorted(path for paths in CHANGED.values() for path in paths if path.endswith(".py"))
    python(copy, "-m", "ruff", "check", *files, *changed)
    python(copy, "-m", "ruff", "format", "--check", *files, *changed)
    python(copy, "-c", "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache'])")
    chosen = "jsonl or longer or quantiles or lengths or one_name or init_files or test_presets or test_readme"
    holding = ("tests/test_presets.py", "tests/test_readme.py", "tests/test_dag.py")
    printed = python(copy, "-m", "pytest", "-vv", "-p", "no:cacheprovider", "-k", chosen, *TESTS.values(), *holding)
    of_lengths = ("test_deps_are_the_rooms_of_the_import_closure", "test_params_hold_the_pins_of_the_import_closure")
    held = (*(f"{name}[lengths]" for name in of_lengths), "test_one_name_in_every_place")
    for name in (*held, *TESTS.values()):
        assert name in printed  # what was deselected did not pass


@pytest.mark.slow
@pytest.mark.campaign  # the test of every leaf of params.yaml again, and of them the recipe's
def test_a_changed_value_reruns_what_the_recipe_says(copy: Path) -> None:
    """As DVC sees it, every leaf of params.yaml."""
    assert "lengths" in dvc(copy, "stage", "list", "--name-only").stdout.split()
    files = ("tests/test_rerun.py", "tests/test_dag.py", "tests/check/test_params_file.py")
    printed = python(copy, "-m", "pytest", "-vv", "-p", "no:cacheprovider", *files)
    assert "test_a_changed_leaf_reruns_exactly[lengths.shares] PASSED" in printed


def test_own_data_is_read_by_the_block_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row and the block of "Your own data" in docs/howto.md: its row becomes a pair."""
    fenced = dict(re.findall(r"```(\w+)\n(.*?)```", section("docs/howto.md", "Your own data"), re.DOTALL))
    (tmp_path / "data").mkdir()
    row = json.loads(fenced["json"])
    rows = [{**row, "prompt": f"{row['prompt']} {n}"} for n in range(40)]
    write_jsonl(tmp_path / "data/mine.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    view = parse(FetchView, {"seed": 1, **YAML(typ="safe").load(fenced["yaml"])})
    dataset = read_source(view.fetch, view.seed, tmp_path / "scratch")
    assert len(dataset.train) + len(dataset.eval) == 40 and len(dataset.eval) > 0
    assert next(iter(dataset.train))["chosen"][-1]["content"] == row["chosen"]


@pytest.mark.slow
@pytest.mark.campaign  # two minutes of mypy; what the recipes add is run below
def test_mypy_accepts_them(copy: Path) -> None:
    """With what mypy keeps of libraries from `make check`, where it ran: it compares sources by their content."""
    if (ROOT / ".mypy_cache").is_dir():
        shutil.copytree(ROOT / ".mypy_cache", copy / ".mypy_cache", dirs_exist_ok=True)
    python(copy, "-m", "mypy")


@pytest.mark.slow
def test_the_stages_run_with_source_judge_and_stage(copy: Path, chosen) -> None:
    """`dvc repro` of the stages that the recipes speak of, on the recipe's source, judged by the recipe's judge."""
    chosen(SOURCE)
    chosen(JUDGE)
    write_texts(copy / "data")
    assert python(copy, "-m", "epsilon_dpo.check.params_file") == ""
    done = dvc(copy, "repro", "judge", "lengths")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    dataset = json.loads((copy / "out/validate/dataset.json").read_text("utf-8"))
    assert dataset["source"] == "jsonl" and dataset["rows"] == {"train": 1200, "eval": 256}
    assert not (copy / "out/validate/dropped.jsonl").read_text("utf-8"), "its rows keep the contract"
    judge = json.loads((copy / "out/judge/judge.json").read_text("utf-8"))
    assert judge["kind"] == "longer" and judge["nats_per_word"] == 0.25
    assert 0.0 < json.loads((copy / "out/judge/metrics.json").read_text("utf-8"))["accuracy"] < 1.0
    lengths = json.loads((copy / "out/lengths/lengths.json").read_text("utf-8"))
    assert list(lengths) == [f"{side}/{share}" for side in SIDES for share in (0.5, 0.9)]
    assert 1.0 < lengths["chosen/0.5"] <= lengths["chosen/0.9"]
