"""A tracker whose child is this process: a child imports MLflow, which takes longer than what it writes in a test."""

import os
from types import TracebackType

from epsilon_dpo.mlflow_writer.outbox import Outbox
from epsilon_dpo.pipeline.observability.tracker import Tracker


class Direct(Tracker):
    """Its messages are written when the block ends, by the child's own code."""

    def __enter__(self) -> "Direct":
        self._send("open", **self._opening)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        outbox = Outbox(os.environ.get("MLFLOW_TRACKING_URI", ""))
        outbox.listen(iter(self._messages.get, None))
        outbox.run()
        assert not outbox.keep(), "all is written"
