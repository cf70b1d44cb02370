"""The recipes of CONTRIBUTING.md and docs/extending.md, taken from the page and applied to a copy of the repository.

A block is announced by a line that begins with the file's name and ends with a colon. It is a new file or, as a `diff`,
changes of a file that is there: hunks without line numbers, separated by `@@`, each of which must fit at exactly one
place.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^`([\w./]+)`([^\n]*):\n\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A block of a page: the file it is for, what the page says of it, its language, its text."""

    path: str
    said: str
    language: str
    text: str


def section(page: str, heading: str) -> str:
    """The part of a page below `## heading`, up to the next one."""
    parts = (ROOT / page).read_text("utf-8").split(f"\n## {heading}\n")
    assert len(parts) == 2, f"{page} has no section {heading}"
    return re.split(r"^## ", parts[1], maxsplit=1, flags=re.MULTILINE)[0]


def blocks(page: str, heading: str) -> list[Block]:
    """The blocks of a section that belong to a file, in the order of the page."""
    return [Block(*found) for found in BLOCK.findall(section(page, heading))]


def copy_repository(to: Path) -> Path:
    """The tracked files as they are on disk, in a repository of their own."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)
    subprocess.run(["git", "init", "--quiet"], cwd=to, check=True)
    return to


def add_all(copy: Path) -> None:
    """Let git know every file: tests look at tracked ones."""
    subprocess.run(["git", "add", "--all"], cwd=copy, check=True)


def write_new(copy: Path, block: Block) -> None:
    """A file of the recipe's own."""
    path = copy / block.path
    assert not path.exists(), path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text, "utf-8")


def change(path: Path, diff: str) -> None:
    """Apply the hunks of `diff` to the file."""
    text = path.read_text("utf-8")
    for hunk in diff.removesuffix("\n").split("\n@@\n"):
        lines = [line if line else " " for line in hunk.split("\n")]
        assert all(line[0] in " +-" for line in lines), hunk
        before = "".join(f"{line[1:]}\n" for line in lines if line[0] != "+")
        after = "".join(f"{line[1:]}\n" for line in lines if line[0] != "-")
        assert f"\n{text}".count(f"\n{before}") == 1, f"{path.name} has not exactly one place for\n{hunk}"
        text = f"\n{text}".replace(f"\n{before}", f"\n{after}")[1:]
    path.write_text(text, "utf-8")


def python(copy: Path, *arguments: str) -> str:
    """What `python arguments` prints in the copy, which must succeed there and import the copy's package."""
    environment = {**os.environ, "PYTHONPATH": str(copy / "src")}
    done = subprocess.run([sys.executable, *arguments], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
