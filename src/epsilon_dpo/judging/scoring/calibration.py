"""Whether a judge is as sure as it is right: its probability P(a is better) = sigmoid(logit / 2) against labels.

A policy that is trained on a judge's scores is trained on how far apart they are (stages `margins` and `scorer`), which
the share of right verdicts does not see.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, log_expit

from epsilon_dpo.judging.scoring.intervals import Intervals
from epsilon_dpo.pipeline.stage.files import Row


def calibration(records: Sequence[Row], intervals: Intervals) -> dict[str, float]:
    """Of records whose answer a is the labelled one, nothing of a single prompt; with an interval over prompts each:

    - `overconfidence`: the mean of max(P, 1 - P) minus the share of right verdicts (ties a half). 0 is calibrated on
      the whole, above 0 the judge is surer than right. It is the expected calibration error of one bin, with its sign:
      that of many bins is never 0 on few records.
    - `label_nll`: the mean of -log P(labelled answer), nats; log 2 = 0.693 for a coin, of a judge's rescaled
      logits smallest where they are calibrated.
    """
    if len({record["prompt_id"] for record in records}) < 2:
        return {}
    half = np.array([record["logit"] for record in records], dtype=np.float64) / 2.0
    right = np.array([record["win"] for record in records], dtype=np.float64)
    values = {"overconfidence": expit(np.abs(half)) - right, "label_nll": -log_expit(half)}
    found: dict[str, float] = {}
    for name, value in values.items():
        found |= intervals.mean(value.tolist(), records).named(name)
    return found
