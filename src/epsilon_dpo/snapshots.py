"""A run's policy at several points of its training: out/align/RUN/snapshots/<step>/model, beside the final model/.

The paper's Figure 3 follows KL and win rate within an epoch. A run asks for it with `snapshot_epochs`; each snapshot is
a whole model folder, and sample, score and kl treat it as they treat the final policy, each below its own folder.
"""

from pathlib import Path

FOLDER = "snapshots"
FACTS = "snapshot.json"  # beside a snapshot's model: {"step": optimizer steps done, "epoch": the same in epochs}


def places_of(folder: Path) -> list[str]:
    """Where the policies of a run stand below `folder`, out/<stage>/RUN: its snapshots by step, then the final one."""
    snapshots = sorted(path.name for path in (folder / FOLDER).glob("*") if path.is_dir())
    return [*(f"{FOLDER}/{name}" for name in snapshots), "."]


def make_place(out: Path, place: str) -> Path:
    """The folder of one place below `out`, made; an `out` that has vanished stays so, and the first write fails."""
    folder = out
    for name in Path(place).parts:
        folder = folder / name
        folder.mkdir(exist_ok=True)
    return folder
