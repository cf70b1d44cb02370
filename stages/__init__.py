"""One thin file per stage of dvc.yaml: read params and inputs, one call into src/epsilon_dpo, write outputs.

The stages import the package that lies beside them, installed or not: `dvc exp run --temp` and `--queue` work in a copy
of the project, whose code DVC hashes, and an editable install points at the original.
"""

import os
import sys
from pathlib import Path
from typing import Any

_SOURCE = str(Path(__file__).resolve().parent.parent / "src")
sys.path.insert(0, _SOURCE)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_SOURCE, os.environ.get("PYTHONPATH")]))  # of its processes


def _one_line(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    """Ctrl-C while a stage still imports has nothing to say but that; what comes later, run_stage says."""
    if issubclass(kind, KeyboardInterrupt):
        print("the stage was interrupted before it began.", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _one_line
if sys.argv[:1] == ["-m"]:  # a stage is about to be imported, to be run
    from epsilon_dpo.pipeline.stage.forks import hand_over

    hand_over()
