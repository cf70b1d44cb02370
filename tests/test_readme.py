"""README.md against the disk and the Makefile."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def tracked() -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return set(listed)


def test_the_tree_is_the_disk() -> None:
    """The tree names each top-level entry and each part of src/epsilon_dpo, no more and no less."""
    block = README.split("<!-- tree -->")[1].split("```")[1]
    named, folder = set(), ""
    for line in block.strip().splitlines()[0:]:
        match = re.match(r"^(\s*)([\w.\-/]+)", line)
        assert match, line
        indent, name = match.groups()
        if not indent:
            folder = name if name.endswith("/") else ""
            named.add(name)
        else:
            named.add(folder + name)
    files = tracked()
    hidden = {".gitignore", ".dvcignore", ".dockerignore", ".pre-commit-config.yaml", ".dvc/", ".ci/"}
    top = {path.split("/")[0] + ("/" if "/" in path else "") for path in files} - hidden
    inside = {
        "src/epsilon_dpo/" + rest.split("/")[0] + ("/" if "/" in rest else "")
        for path in files
        if path.startswith("src/epsilon_dpo/") and (rest := path.removeprefix("src/epsilon_dpo/")) != "__init__.py"
    }
    assert named == (top - {"src/"}) | {"src/epsilon_dpo/"} | inside


def test_the_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE))
    assert {"repro", "test"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
