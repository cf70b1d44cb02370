"""What DVC does not see in a folder, by the project's .dvcignore: an editor's swap file changes no dependency."""

import fnmatch
import os
import re
from pathlib import Path

DVCIGNORE = ".dvcignore"


def ignored_names() -> re.Pattern[str]:
    """Matches the name of each file and folder that .dvcignore leaves out wherever it lies, and compiled Python.

    Lines with a slash are about places, where no dependency of a stage lies, and are passed over. The files are those
    of the working folder and of all above it up to the folder of DVC's project: external/ has one of its own, of places
    alone, and its stages depend on code that lies beside it.
    """
    here = Path.cwd()
    lines: list[str] = []
    for folder in (here, *here.parents):
        if (folder / DVCIGNORE).is_file():
            lines += (folder / DVCIGNORE).read_text("utf-8").splitlines()
        if (folder / ".dvc").is_dir():
            break
    of_names = (line for line in lines if line.strip() and not line.startswith("#") and "/" not in line)
    names = [line.replace("\\#", "#") for line in of_names]
    return re.compile("|".join(fnmatch.translate(name) for name in ["*.pyc", *names]))


def seen_files(folder: Path) -> list[Path]:
    """The files below `folder` that DVC sees, in order."""
    ignored = ignored_names()
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not ignored.match(name)]
        found.extend(Path(parent, name) for name in files if not ignored.match(name))
    return sorted(path for path in found if path.is_file())
