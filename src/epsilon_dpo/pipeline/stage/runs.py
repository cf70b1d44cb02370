"""A run of params.yaml: what it may be called, and where its policies are in out/<stage>/RUN.

The paper's Figure 3 follows KL and win rate within an epoch. A run asks for it with `snapshot_epochs`: its policy is
then kept at several points of its training too, in out/align/RUN/snapshots/<step>/model, beside the final model/. Each
snapshot is a complete model folder, which sample, score and kl treat as they treat the final policy, each below its own
folder.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from epsilon_dpo.pipeline.stage.params import METRICS, Name

# Whose answers they are, in the records of score, controls and tournament; the first is a run's.
RESERVED = RUN, SFT, CHOSEN, REJECTED, SHUFFLED = "run", "sft", "chosen", "rejected", "shuffled"


def _not_reserved(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"a run cannot be called {name}, which names other answers in the comparison; rename it")
    if name == METRICS:
        raise ValueError(f"a run cannot be called {name}, which is a folder beside the runs'; rename it")
    return name


RunName = Annotated[Name, AfterValidator(_not_reserved)]

KL_OF_CHOSEN = "kl_fwd_data"  # of stage kl, on answers that nobody drew
SNAPSHOTS, FINAL = "snapshots", "."
FACTS = "snapshot.json"  # beside a snapshot's model: {"step": optimizer steps done, "epoch": the same in epochs}


def metrics_folder(out: Path, run: str) -> Path:
    """Of a training: metrics.json, metrics.jsonl and the facts of its snapshots."""
    return out / "align" / METRICS / run


def policy_paths(folder: Path) -> list[str]:
    """Where the policies of a run are below `folder`, out/<stage>/RUN: its snapshots by step, then the final one."""
    snapshots = [path.name for path in (folder / SNAPSHOTS).glob("*") if path.is_dir()]
    by_step = sorted(snapshots, key=lambda name: (len(name), name))  # a millionth step has more than the six digits
    return [*(f"{SNAPSHOTS}/{name}" for name in by_step), FINAL]


def make_place(out: Path, place: str) -> Path:
    """The folder of one place below `out`, made; an `out` that has vanished stays so, and the first write fails."""
    folder = out
    for name in Path(place).parts:
        folder = folder / name
        folder.mkdir(exist_ok=True)
    return folder


def readable(metrics: dict[str, Any], under: str) -> dict[str, Any]:
    """`metrics` without KLs where answers were drawn under a restriction: they are not the policy's, and a row of
    MLflow or a column of DVC has no room to say so.

    Args:
        metrics: among others of stage kl, whose names begin with `kl_`.
        under: text of `sampled_under` of the answers; empty: all are KLs.
    """
    return {name: x for name, x in metrics.items() if not under or name.startswith(KL_OF_CHOSEN) or name[:3] != "kl_"}
