"""A full or read-only disk: one sentence for the user, whichever library met it first and whatever it said."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.fingerprint import scratch_root

FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EROFS, errno.EACCES)
# safetensors (Rust), torch's writer of zip files (C++) and SQLite raise types of their own, which carry no errno.
FULL_TEXTS = re.compile(
    "|".join(map(os.strerror, FULL))
    + "|PytorchStreamWriter failed writing|database or disk is full"
    + r"|unexpected pos \d+ vs \d+"  # of torch's writer, which notices in its destructor
)
REFUSED_TEXTS = re.compile(f"{os.strerror(errno.EROFS)}|attempt to write a readonly database")
AFTER = "and run this again: nothing half-written was published, and what was finished is kept in scratch/"


@contextmanager
def disk_in_a_sentence() -> Iterator[None]:
    """Within it, the errors of a full or a read-only disk become a `UserError`; every other passes unchanged.

    Raises:
        UserError: which folder takes no more, how much is free there, what to do.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # torch.distributed.checkpoint's error of a process's disk is no Exception
        sentence = _sentence(error)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def _sentence(error: BaseException) -> str | None:
    """None: the error is of another kind."""
    for one in _chain(error):
        number = one.errno if isinstance(one, OSError) else None
        text = "" if number else str(one)  # an errno decides alone: its text may name a file called anything
        if number in FULL or FULL_TEXTS.search(text):
            file = _file_of(one)
            fullest = _folder_of(file) if file else min(_ours(), key=_free)
            why = "the quota is used up" if number == errno.EDQUOT else f"{_free(fullest) / 1e6:,.1f} MB are free"
            return f"the disk of {fullest} takes no more ({why}); make room {AFTER}."
        if number in REFUSED or REFUSED_TEXTS.search(text):
            refusal = _refusal(_file_of(one), os.strerror(number or errno.EROFS))
            if refusal:
                return f"{refusal} {AFTER}."
    return None


def _refusal(file: str | None, why: str) -> str | None:
    """What of `file`, or of where stages write, this process may not use; None: it may use all."""
    if file is None:
        closed = [folder for folder in _ours() if not os.access(folder, os.W_OK)]
        return f"{closed[0]} cannot be written ({why}); make it writable" if closed else None
    folder = _folder_of(file)
    if os.path.exists(file) and not os.access(file, os.R_OK):
        return f"{file} cannot be read ({why}); change its permissions"
    if not os.access(folder, os.X_OK):  # nor may what lies there be read
        return f"{folder} cannot be entered ({why}); change its permissions"
    if not os.access(folder, os.W_OK):
        return f"{folder} cannot be written ({why}); make it writable"
    # A file of another user, in a folder of the project that both write to.
    if not folder.is_absolute() and os.path.isfile(file) and not os.access(file, os.W_OK):
        return f"{file} cannot be written ({why}); make it writable"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that led to it."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)


def _file_of(error: BaseException) -> str | None:
    """The file that an OSError names."""
    name = getattr(error, "filename", None)
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else None


def _folder_of(file: str) -> Path:
    """The nearest folder above `file` that exists, relative to the project where it lies there."""
    path = Path(file).absolute()
    folder = next(parent for parent in path.parents if os.path.isdir(parent))  # also where one above may not be entered
    with suppress(ValueError):
        return folder.relative_to(Path.cwd())
    return folder


def _ours() -> list[Path]:
    """Where stages write."""
    folders = [Path("out"), scratch_root(), Path()]
    with suppress(FileNotFoundError):  # it tries to write, and this disk may be the full one
        folders.append(Path(tempfile.gettempdir()))
    return [path for path in folders if path.is_dir()]


def _free(folder: Path) -> int:
    """Bytes."""
    return shutil.disk_usage(folder).free
