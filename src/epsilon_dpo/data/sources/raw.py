"""A data file as text: decompressed by its name, and refused where its beginning says that it is something else."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from epsilon_dpo.pipeline.observability.errors import UserError


def _zstandard(path: Path) -> IO[bytes]:
    import pyarrow as pa  # Python has no zstandard before 3.14

    return cast(IO[bytes], pa.input_stream(path, compression="zstd"))


OPEN: dict[str, tuple[Callable[[Path], Any], bytes, str]] = {  # suffix -> how to open, first bytes, program
    ".gz": (gzip.open, b"\x1f\x8b", "gzip"),
    ".bz2": (bz2.open, b"BZh", "bzip2"),
    ".xz": (lzma.open, b"\xfd7zXZ\x00", "xz"),
    ".zst": (_zstandard, b"\x28\xb5\x2f\xfd", "zstd"),
}
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
PAGE = (b"<!doctype html", b"<html")


def refuse_what_is_no_data(path: Path, shown: str) -> None:
    """Look at the first bytes only.

    Raises:
        UserError: the file is empty, may not be read, is a Git LFS pointer, a web page, or not compressed as its name
            says.
    """
    with one_sentence(shown), path.open("rb") as file:
        head = file.read(256)
    if not head:
        raise UserError(f"{shown} is empty; download or write it again.")
    refuse_what_is_something_else(head, shown)
    suffix = path.suffix.lower()
    really = next((name for name, (_, magic, _) in OPEN.items() if head.startswith(magic)), "")
    if suffix in OPEN and really != suffix:
        tool = OPEN[suffix][2]
        what = f"not a {tool} file" if not really else f"compressed as {really} and not as its name says"
        raise UserError(f"{shown} is {what}; compress it with `{tool}`, rename it, or download it again.")
    if really and suffix not in OPEN:
        raise UserError(f"{shown} is compressed, but its name does not say so; rename it to {path.name}{really}.")


def refuse_what_is_something_else(head: bytes, shown: str) -> None:
    """Raises: UserError: `head`, the first bytes of a file or of what is compressed in it, tells of no data."""
    if head.startswith(LFS_POINTER):
        raise UserError(
            f"{shown} is a Git LFS pointer and not the data: run `git lfs pull` in the repository that it comes from, "
            "then copy the file again."
        )
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(PAGE):
        raise UserError(f"{shown} is a web page (HTML) and not the data: download the file itself, not its page.")


@contextmanager
def text_of(path: Path, shown: str) -> Iterator[IO[str]]:
    """The decompressed text, a byte order mark removed, line ends as they are.

    Raises:
        UserError: what `refuse_what_is_no_data` refuses; the file is cut off, damaged or not UTF-8 (while reading).
    """
    refuse_what_is_no_data(path, shown)
    with one_sentence(shown):
        opened = OPEN[path.suffix.lower()][0](path) if path.suffix.lower() in OPEN else path.open("rb", buffering=0)
        with opened, io.BufferedReader(opened) as buffered:
            head = buffered.peek(256)[:256]
            refuse_what_is_something_else(head, shown)
            if b"\0" in head:
                raise UserError(
                    f"{shown} is not UTF-8 text (it has zero bytes, as UTF-16 has); save it as UTF-8, or download it "
                    "again."
                )
            with io.TextIOWrapper(buffered, encoding="utf-8-sig", newline="") as text:
                yield text


@contextmanager
def one_sentence(shown: str) -> Iterator[None]:
    """What reading a file raises, as a `UserError`."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(
            f"{shown} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8, or download it again."
        ) from None
    except PermissionError:
        raise UserError(f"{shown} may not be read; change its permissions.") from None
    except FileNotFoundError:
        raise UserError(f"{shown} does not exist; download or write it again.") from None
    except (EOFError, zlib.error, lzma.LZMAError, OSError):
        raise UserError(f"{shown} is cut off or damaged; download or write it again.") from None
