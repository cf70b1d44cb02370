"""Local data lies below data/, the folder that dvc.yaml names: DVC sees a change there, and `dvc repro` reads it anew.

DVC hashes a linked file by its content, but does not look into a linked folder (tried with the pinned version), and
.dvcignore hides the files of editors. Nor does it look into a folder that holds .dvc.
"""

import hashlib
from pathlib import Path

from epsilon_dpo.data.sources.params import WATCHED, lies_in_data
from epsilon_dpo.data.sources.raw import one_sentence
from epsilon_dpo.pipeline.observability.errors import UserError


def refuse_outside(path: Path) -> None:
    """Raises: UserError: `path` does not lie below data/; it may be meant as a Hub dataset, which needs a revision."""
    if not lies_in_data(str(path)):
        raise UserError(
            f"{path} is not below {WATCHED}/, the folder that DVC watches: copy it there, or link its files "
            f"(`cp -rs /absolute/path {WATCHED}/NAME`); a dataset on the Hub, owner/name, needs its revision, a commit "
            "of 40 hexadecimal digits."
        )


def refuse_unwatched_within(path: Path) -> None:
    """`path`, the folders above it and those below; not what is hidden below, such as .git, of which nothing is read.

    Raises:
        UserError: DVC would not see a change there, or it may not be looked into.
    """
    try:
        for part in [path, *path.parents[:-1]]:
            refuse_unwatched(part)
        for inner in [path, *path.rglob("*")]:
            if any(part.startswith(".") for part in inner.relative_to(path).parts):
                continue
            if inner.is_symlink() and not inner.exists():
                raise UserError(
                    f"{inner} is a link to {inner.readlink()}, which does not exist, so its rows would be missing; "
                    "link or copy the file again, or remove the link."
                )
            if inner.is_dir():
                refuse_unwatched(inner)
    except PermissionError as error:
        folder = Path(error.filename).parent if error.filename else path
        raise UserError(f"{folder} may not be read; change its permissions.") from None
    except OSError as error:  # 300 characters are no name
        raise UserError(f"{path} is no path: {(error.strerror or '').lower()}; correct it in params.yaml.") from None


def refuse_unwatched(path: Path) -> None:
    """Raises: UserError: DVC would not see a change below `path`."""
    if path.is_symlink() and path.is_dir():
        raise UserError(
            f"{path} is a link to a folder, into which DVC does not look, so that changes would go unseen; copy the "
            f"folder, or link its files: `rm {path} && cp -rs {path.resolve()} {path}`."
        )
    if (path / ".dvc").exists():
        raise UserError(
            f"{path} is a DVC project of its own, into which DVC does not look, so that changes would go unseen; "
            f"remove {path}/.dvc, or copy its data files alone."
        )
    if (path / ".dvcignore").exists():
        raise UserError(
            f"{path}/.dvcignore may hide files from DVC, so that changes would go unseen; remove it and put "
            "what is no data elsewhere."
        )
    if path.name.startswith((".", "#")) or path.name.endswith(("~", ".swp")) or path.name == "__pycache__":
        raise UserError(f"{path} has a name that DVC ignores (.dvcignore), so that changes would go unseen; rename it.")


def what_is_there(folder: Path) -> str:
    """Names in `folder`, for a message."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.glob("*") if not path.name.startswith("."))
    return (", ".join(names[:20]) + (", ..." if len(names) > 20 else "")) or "nothing"


def sha256(path: Path) -> str:
    """Raises: UserError: the file cannot be read."""
    with one_sentence(str(path)), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
