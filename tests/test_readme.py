"""README.md and docs/ against the disk, dvc.yaml and the Makefile."""

import csv
import json
import re
import subprocess
from itertools import pairwise
from pathlib import Path
from statistics import stdev
from typing import get_args

import pytest
import readme_results

from epsilon_dpo.check.params_file import ParamsFile
from epsilon_dpo.data.pairs.params import Choice
from epsilon_dpo.pipeline.stage.params import METRICS, read_yaml
from epsilon_dpo.pipeline.stage.runs import RESERVED

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
STAGES = {name: entry.get("do", entry) for name, entry in read_yaml(ROOT / "dvc.yaml")["stages"].items()}
PACKAGE = "src/epsilon_dpo/"


def tracked() -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return set(listed)


def folders(files: set[str], inside: str) -> set[str]:
    """The folders that are directly in `inside` and hold files."""
    below = {path.removeprefix(inside) for path in files if path.startswith(inside)}
    return {path.split("/")[0] + "/" for path in below if "/" in path}


def rows_of_the_tree() -> list[tuple[bool, list[str], str]]:
    """Of each row whether it is indented, what it names, and what it says of them."""
    rows = []
    for line in README.split("<!-- tree -->")[1].split("```")[1].strip("\n").splitlines():
        match = re.fullmatch(r"(\s*)([\w.\-/]+(?: [\w.\-/]+)*)\s\s+(.+)", line)
        assert match, line
        rows.append((bool(match[1]), match[2].split(), match[3]))
    return rows


def test_the_page_is_short() -> None:
    """110 lines, of which a row and an arrow for each stage of your own do not count."""
    lines = README.splitlines()
    assert max(map(len, lines)) <= 140
    assert len([line for line in lines if not line.startswith("| [`") and "-->" not in line]) <= 110 - 21


def test_the_results_are_stated_where_they_are_looked_for() -> None:
    """Their values are held against the pipeline's by test_pipeline.py, which is slow."""
    assert len(readme_results.table()) == 3
    assert readme_results.beside_the_table()


def test_the_spread_between_seeds_is_that_of_the_replicates() -> None:
    """Of the default's three runs in level `controlled`, which trains them at the default's values."""
    params, level = (read_yaml(ROOT / name) for name in ("params.yaml", "presets/study-controlled.yaml"))
    decides = ("fetch", "tokens", "base", "judge", "sft", "pairs", "align", "sample", "kl")
    assert all(params[block] == level[block] for block in decides)
    with (ROOT / "study/results/controlled/policies.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kls, rates = [], []
    for run in (
        params["runs"][name] for name in ("dpo", "epsilon_dpo", "tr_dpo")
    ):  # README has these, whoever adds one
        recipe = {name: value for name, value in run.items() if name != "beta"}
        found = [row for row in rows if json.loads(row["recipe"]) == recipe and row["beta"] == str(run["beta"])]
        assert len({row["seed"] for row in found}) == len(found) == 8
        kls.append(f"{stdev(float(row['kl']) for row in found):.2f}")
        rates.append(f"{stdev(float(row['win_rate_true']) for row in found):.2f}")
    stated, rate = readme_results.over_seeds()
    assert (stated, {rate}) == (kls, set(rates)) and "[eight seeds]" in " ".join(README.split())


def test_the_tree_is_the_disk() -> None:
    """The tree names each top-level entry and each room, no more and no less, and in a room's row its sub-rooms."""
    rows, files = rows_of_the_tree(), tracked()
    named = [name for indented, names, _ in rows if not indented for name in names]
    hidden = {".gitignore", ".dvcignore", ".dockerignore", ".pre-commit-config.yaml", ".dvc/", ".ci/", ".github/"}
    top = {path.split("/")[0] + ("/" if "/" in path else "") for path in files} - hidden
    assert sorted(named) == sorted((top - {"src/"}) | {PACKAGE})
    rooms = [name for indented, names, _ in rows if indented for name in names]
    assert sorted(rooms) == sorted(folders(files, PACKAGE))
    code = {path for path in files if path.endswith(".py")}
    for indented, names, text in rows:
        if indented:
            found = set().union(*(folders(code, PACKAGE + name) for name in names))
            assert set(re.findall(r"(?<![\w/])\w+/", text)) == found, names


def test_the_rooms_stand_in_the_order_of_the_package() -> None:
    rooms = [name.rstrip("/") for indented, names, _ in rows_of_the_tree() if indented for name in names]
    stated = (ROOT / PACKAGE / "__init__.py").read_text("utf-8")
    assert rooms == re.search(r"before it: ([\w,\s]+)\.", stated)[1].replace(",", " ").split()  # type: ignore[index]


def test_every_room_says_in_ten_lines_what_it_does() -> None:
    rooms = sorted(path for path in (ROOT / PACKAGE).rglob("__init__.py") if path.parent != ROOT / PACKAGE)
    assert len(rooms) > 30
    for room in rooms:
        text = room.read_text("utf-8")
        assert len(text.splitlines()) <= 10, room
        assert "\nIn: " in text and re.search(r"\bOut[:,]\s", text), room
        assert re.search(r"\b(not|no|nothing|never|neither)\b", text, re.IGNORECASE), f"{room}: what does it not do?"


def test_the_diagram_is_the_dag() -> None:
    """Its arrows are those of dvc.yaml, without those that follow from others."""
    made = {"teacher": "judge", "ranking_usage": "ranking", "margins_usage": "margins"}  # not named as their stage
    needs = {
        stage: {made.get(dep.split("/")[1], dep.split("/")[1]) for dep in entry["deps"] if dep.startswith("out/")}
        for stage, entry in STAGES.items()
    }

    def behind(stage: str) -> set[str]:
        return needs[stage].union(*(behind(needed) for needed in needs[stage]))

    arrows = {
        (needed, stage)
        for stage in STAGES
        for needed in needs[stage]
        if not any(needed in behind(other) for other in needs[stage] - {needed})
    }
    drawn = set()
    for line in README.split("```mermaid\nflowchart LR\n")[1].split("```")[0].splitlines():
        chain = [[re.sub(r"\[.*", "", name.strip()) for name in part.split("&")] for part in line.split("-->")]
        drawn |= {(a, b) for left, right in pairwise(chain) for a in left for b in right}
    assert drawn == arrows


def test_the_table_has_every_stage_and_links_its_room() -> None:
    rows = re.findall(r"^\| \[([^\]]+)\]\((src/epsilon_dpo/[\w/]+)\) \|", README, re.MULTILINE)
    named = {name.removesuffix("@RUN"): room for names, room in rows for name in re.findall(r"`([^`]+)`", names)}
    assert set(named) == set(STAGES)
    for stage, room in named.items():
        assert any(dep.startswith(room) or room.startswith(dep) for dep in STAGES[stage]["deps"]), stage
    runs = {name.removesuffix("@RUN") for names, _ in rows for name in re.findall(r"`(\w+@RUN)`", names)}
    assert runs == {stage for stage, entry in read_yaml(ROOT / "dvc.yaml")["stages"].items() if "foreach" in entry}


def test_what_it_says_of_the_loss_is_in_the_files_that_it_links() -> None:
    """From the page to the loss, to where beta moves and to where both perturbed log-probs arise."""
    section = README.split("## ε-DPO in 12 lines")[1].split("\n## ")[0]
    linked = dict(re.findall(r"\[([\w/]+\.py)\]\(([^)]+)\)", section))
    texts = {name: (ROOT / path).read_text("utf-8") for name, path in linked.items()}
    method, kernel = texts["methods/epsilon_dpo.py"], texts["models/logps/kernel.py"]
    assert "epsilon_loss(" in method.split("def loss(")[1].split("\n    def ")[0] and "def after_step(" in method
    trainer = texts["training/alignment/trainer.py"]
    assert "method.after_step(" in trainer.split("def finish_step(")[1].split("\n    def ")[0]
    assert "def _sweep(" in kernel and "delta_minus" in kernel and "delta_plus" in kernel
    named, metrics = re.findall(r"`(\w+)`", section), re.findall(r"`(eps/\w+)`", section)
    assert named and metrics
    for name in named:
        assert re.search(rf"\b{name}\b", "\n".join(texts.values())), name
    for metric in metrics:
        assert f'"{metric}"' in method, metric
    assert "Mixture" in texts["tiles.py"]


def test_the_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE))
    assert {"repro", "test"} <= named
    for page in PAGES:
        named |= set(re.findall(r"(?:`|^)make ([a-z-]+)", (ROOT / page).read_text("utf-8"), re.MULTILINE))
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them, and those that a page sets itself."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    own = set(re.findall(r'<a id="([^"]+)">', prose(page)))
    return own | {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_exist(page: str) -> None:
    """Files, folders, and the headings in them."""
    for target in re.findall(r"\]\((?!http)([^)]+)\)", prose(ROOT / page)):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def keys_to_set(preset: str) -> set[str]:
    """`block.key` of each value that a preset leaves to the user: SET THIS beside it, or in a comment above."""
    found, block, waiting = set(), "", False
    for line in (ROOT / "presets" / preset).read_text("utf-8").splitlines():
        if name := re.match(r"(\w+):", line):
            block = name[1]
        marked, key = "SET THIS" in line, re.match(r"\s+(\w+):", line)
        if key and (marked or waiting):
            found.add(f"{block}.{key[1]}")
        waiting = (marked or waiting) and not key
    return found


@pytest.mark.parametrize("page", PAGES)
def test_a_section_that_takes_a_preset_names_what_is_to_be_set_in_it(page: str) -> None:
    assert keys_to_set("hh-local.yaml") == {"fetch.folder"}
    for section in re.split(r"^#+ ", (ROOT / page).read_text("utf-8"), flags=re.MULTILINE):
        for preset in re.findall(r"cp presets/([\w.-]+) params\.yaml", section):
            named = all(f"`{key}`" in section for key in keys_to_set(preset)) or "`SET THIS`" in section
            assert named, (section.partition("\n")[0], preset)


def test_every_block_of_params_yaml_stands_on_the_page_with_where_its_keys_are() -> None:
    """A file that it links holds the block, or the type of a value that is none."""
    page = (ROOT / "docs/howto.md").read_text("utf-8").split("\n## The blocks of params.yaml\n")[1].split("\n## ")[0]
    named = []
    for names, _, keys in re.findall(r"^\| (`.*?) \| (.*) \| (.*) \|$", page, re.MULTILINE):
        files = [(ROOT / "docs" / path).read_text("utf-8") for path in re.findall(r"\]\(([\w./-]+\.py)\)", keys)]
        for block in re.findall(r"`(\w+)`", names):
            holds = rf'^    {block}: |alias="{block}"|^(class )?{block[:3].title()}\w*( = |\()'
            assert any(re.search(holds, text, re.MULTILINE) for text in files), block
            named.append(block)
    known = {field.alias or name for name, field in ParamsFile.model_fields.items()}
    recipes = (ROOT / "docs/extending.md").read_text("utf-8")
    assert sorted(named) == sorted(known - set(re.findall(r"^\+(\w+): \{", recipes, re.MULTILINE)))
    for name in ("turns", "max_prompts", "samples_per_prompt"):
        assert f"`sample.{name}" in page
    assert all(f"`{choice}`" in page for choice in get_args(Choice)) and "`pairs.min_margin`" in page


def test_names_that_a_run_cannot_have_stand_on_the_page() -> None:
    section = (ROOT / "docs/howto.md").read_text("utf-8").split("\n## A run\n")[1].split("\n## ")[0]
    assert all(f"`{name}`" in section for name in (*RESERVED, METRICS))
