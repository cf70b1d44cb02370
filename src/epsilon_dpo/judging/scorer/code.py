"""What online runs are made with beside the rest of stage align: its code as one hash, its packages by version.

A change of a judge, of the sampler or of the online trainer must train the online runs again and no other. So stage
align does not depend on that code: stage scorer does, and leaves this in the folder of each online method, on which its
runs depend.
"""

import hashlib
from pathlib import Path

from epsilon_dpo.pipeline.code.imports import closure, code_of
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Json, read_json
from epsilon_dpo.pipeline.stage.fingerprint import declared_pins
from epsilon_dpo.pipeline.stage.pins import require_pins

ROOT = Path()  # stages run in the project's folder
ONLINE = Path("src/epsilon_dpo/judging/scorer") / "online_training.py"  # which stage align imports by its name
MADE_WITH = "made_with.json"
PACKAGES = ["scikit-learn", "vaderSentiment"]  # which decide scores and which stage align does not use otherwise
_ENTRY = {"params": [{"pins.yaml": PACKAGES}]}  # as an entry of dvc.yaml declares them


def made_with() -> Json:
    """{code: sha256 of the files that only online runs need, packages: versions by name}.

    Comments and docstrings change no policy and are left out, as are files in rooms that stage align depends on.
    """
    rooms = {file.parent for file in closure(ROOT / "stages/align.py", ROOT)}
    total = hashlib.sha256()
    for file in closure(ROOT / ONLINE, ROOT):
        if file.parent not in rooms:
            total.update(f"{file}\0{code_of(file.read_text('utf-8'), str(file))}\0".encode())
    return {"code": total.hexdigest(), "packages": declared_pins(_ENTRY)}


def require_same(scorer: Path) -> None:
    """That an online run is made with what the folder `scorer` says: DVC will record that as what made the result, and
    does not look at this code when stage align runs, which may be hours after stage scorer, or without it (`-s`).

    Raises:
        UserError: the code has changed since, or a package is not installed as pins.yaml says.
    """
    require_pins(_ENTRY)
    file = scorer / MADE_WITH
    if not file.is_file() or read_json(file) != made_with():
        raise UserError(
            f"the judges, the sampler, the online trainer or {' or '.join(PACKAGES)} of pins.yaml changed after stage "
            f"scorer made {scorer}, so that the result would be recorded for code that did not make it; undo that, or "
            "run `dvc repro -sf scorer` and then this again."
        )
