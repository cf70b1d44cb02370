"""A run's policy at several points of its training: out/align/RUN/snapshots/<step>/model, beside the final model/.

The paper's Figure 3 follows KL and win rate within an epoch. A run asks for it with `snapshot_epochs`; each snapshot is
a whole model folder, so that sample, score and kl treat it as they treat the final policy.
"""

from dataclasses import dataclass
from pathlib import Path

from epsilon_dpo.outputs import read_json

FOLDER, FACTS = "snapshots", "snapshot.json"


@dataclass(frozen=True)
class Snapshot:
    """One policy of a run.

    Attributes:
        step: optimizer steps done.
        epoch: the same in epochs.
        model: its folder.
    """

    step: int
    epoch: float
    model: Path

    @property
    def name(self) -> str:
        """The folder of its results below out/<stage>/<run>/snapshots."""
        return self.model.parent.name


def snapshots_of(policy: Path) -> list[Snapshot]:
    """Those of a run's folder out/align/RUN, by step; none if the run did not ask for any."""
    facts = [(read_json(file), file.parent / "model") for file in sorted((policy / FOLDER).glob(f"*/{FACTS}"))]
    return [Snapshot(fact["step"], fact["epoch"], model) for fact, model in facts]
