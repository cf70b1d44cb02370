"""`epsilon-dpo whence FILE` in one call."""

import json
import sys
from pathlib import Path

from epsilon_dpo.pipeline.observability.errors import UserError, printable
from epsilon_dpo.provenance.whence.origin import origin
from epsilon_dpo.provenance.whence.text import as_text


def answered(file: Path, as_json: bool) -> str:
    """What to print; where the content of `file` is in no record, it is printed here, and the exit code is 1.

    Raises:
        UserError: as origin, or a file cannot be read.
        SystemExit: the content is not recorded.
    """
    try:
        answer = origin(file, project_of(Path.cwd()) or project_of(file.resolve().parent))
    except OSError as error:
        raise UserError(f"{error.filename or file} cannot be read: {error.strerror}.") from None
    text = json.dumps(answer, indent=2, ensure_ascii=False) if as_json else as_text(answer)
    if not answer["found"]:
        print(printable(text), flush=True)
        sys.exit(1)
    return text


def project_of(folder: Path) -> Path | None:
    """The DVC project that `folder` is in."""
    return next((place for place in (folder, *folder.parents) if (place / ".dvc").is_dir()), None)
