"""One thin file per stage of dvc.yaml: read params and inputs, one call into src/epsilon_dpo, write outputs.

The stages import the package that lies beside them, installed or not: `dvc exp run --temp` and `--queue` work in a copy
of the project, whose code DVC hashes, and an editable install points at the original.
"""

import os
import sys
from pathlib import Path

_SOURCE = str(Path(__file__).resolve().parent.parent / "src")
sys.path.insert(0, _SOURCE)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_SOURCE, os.environ.get("PYTHONPATH")]))  # of its processes
