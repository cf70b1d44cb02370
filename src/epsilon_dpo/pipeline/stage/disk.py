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
FULL_TEXTS = (
    *map(os.strerror, FULL),
    "PytorchStreamWriter failed writing",
    "database or disk is full",
)
CUT_OFF = re.compile(r"unexpected pos \d+ vs \d+")  # of the same writer, which notices in its destructor
REFUSED_TEXTS = (os.strerror(errno.EROFS), "attempt to write a readonly database")
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
        if number in FULL or CUT_OFF.search(text) or any(known in text for known in FULL_TEXTS):
            fullest = _folder_of(one) or min(_ours(), key=_free)
            why = "the quota is used up" if number == errno.EDQUOT else f"{_free(fullest) / 1e6:,.1f} MB are free"
            return f"the disk of {fullest} takes no more ({why}); make room {AFTER}."
        if number in REFUSED or any(known in text for known in REFUSED_TEXTS):
            name = getattr(one, "filename", None)
            if number and isinstance(name, str) and os.path.exists(name) and not os.access(name, os.R_OK):
                return f"{name} cannot be read ({os.strerror(number)}); change its permissions {AFTER}."
            of_file = _folder_of(one)
            if of_file is not None and not os.access(of_file, os.X_OK):  # nor may what lies there be read
                return f"{of_file} cannot be entered ({os.strerror(errno.EACCES)}); change its permissions {AFTER}."
            candidates = _ours() if of_file is None else [of_file]
            for folder in candidates:
                if not os.access(folder, os.W_OK):
                    why = os.strerror(number or errno.EROFS)
                    return f"{folder} cannot be written ({why}); make it writable {AFTER}."
            ours = isinstance(name, str) and of_file is not None and not of_file.is_absolute()
            # A file of another user, in a folder that both write to.
            if ours and os.path.isfile(str(name)) and not os.access(str(name), os.W_OK):
                return f"{name} cannot be written ({os.strerror(errno.EACCES)}); make it writable {AFTER}."
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that led to it."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)


def _folder_of(error: BaseException) -> Path | None:
    """The nearest folder that exists of the file that an OSError names, relative to the project where it lies there."""
    name = getattr(error, "filename", None)
    if not isinstance(name, str | bytes | os.PathLike):
        return None
    path = Path(os.fsdecode(name)).absolute()
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
