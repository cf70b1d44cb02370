"""What online runs are made with beside the rest of stage align: its code as one hash, its packages by version.

A change of a judge, of the sampler or of the online trainer must train the online runs again and no other. So stage
align does not depend on that code: stage scorer does, and leaves this in the folder of each online method, on which its
runs depend.
"""

import hashlib
from pathlib import Path

from epsilon_dpo.pipeline.code.imports import closure, code_of
from epsilon_dpo.pipeline.stage.files import Json
from epsilon_dpo.pipeline.stage.fingerprint import declared_pins

ROOT = Path()  # stages run in the project's folder
ONLINE = "online_training.py"
PACKAGES = ["scikit-learn", "vaderSentiment"]  # which decide scores and which stage align does not use otherwise


def made_with() -> Json:
    """{code: sha256 of the files that only online runs need, packages: versions by name}.

    Comments and docstrings change no policy and are left out, as are files in rooms that stage align depends on.
    """
    rooms = {file.parent for file in closure(ROOT / "stages/align.py", ROOT)}
    total = hashlib.sha256()
    for file in closure(ROOT / "src/epsilon_dpo/judging/scorer" / ONLINE, ROOT):
        if file.parent not in rooms:
            total.update(f"{file}\0{code_of(file.read_text('utf-8'), str(file))}\0".encode())
    return {"code": total.hexdigest(), "packages": declared_pins({"params": [{"pins.yaml": PACKAGES}]})}
