"""The control setting: what a policy gains by the classifier that scores it, and how far it went for that.

As in section 6.1 of DPO's paper (Rafailov et al. 2023, arXiv 2305.18290) and in T. Nguyen's slides on it (2025), whose
table is set beside this one. It holds only where the judge is a sentiment classifier: its P(positive) is then the true
score of the experiment.
"""

import math
import re

from epsilon_dpo.pipeline.stage.runs import SFT
from epsilon_dpo.report.page.results import Results, Row

SCORE, SHARE = "positive_probability", "positive_share"
K1_OF_PAIRS = "k1_of_pairs"
# T. Nguyen, "Direct Preference Optimization", slides, Oregon State University, 2025: IMDB, gpt2-large.
SLIDES: list[Row] = [
    {"policy": "reference", SCORE: 0.625, "kl": 0.0},
    {"policy": "PPO", SCORE: 0.86, "kl": 1.7},
    {"policy": "DPO", SCORE: 0.99, "kl": -26.6},
]


def control(results: Results) -> list[Row]:
    """The rows of control.csv: SFT, the best of its n answers where it gave several, and the runs; none where the judge
    is no sentiment classifier.

    Keys: `policy`, `method`; with `_low` and `_high` SCORE (mean P(positive)), SHARE (of answers above 1/2) and
    `kl_rev_rb`; `kl_rev_mc` (k1 on the policy's own answers) and K1_OF_PAIRS (k1 on the chosen answers of the
    evaluation pairs, which it did not write) with `_se`. Of the best of n `kl_bound` alone is known.
    """
    if not results.has_classifier:
        return []
    reference: Row = {"policy": SFT, "method": SFT} | _scores(results.controls, "sft")
    reference |= {f"kl_rev_rb{end}": 0.0 for end in ("", "_low", "_high", "_se")}
    rows = [reference]
    for n in sorted(
        int(match[1]) for name in results.controls if (match := re.fullmatch(f"{SHARE}/best_of_(\\d+)", name))
    ):
        row: Row = {"policy": f"best_of_{n}", "method": "best of n"} | _scores(results.controls, f"best_of_{n}")
        rows.append(row | {"kl_bound": best_of_n_bound(n)})
    for run in results.runs:
        row = {"policy": run.name, "method": run.config["method"]} | _scores(run.score, "run")
        row |= {f"kl_rev_rb{end}": run.kl[f"kl_rev_rb{end}"] for end in ("", "_low", "_high", "_se")}
        row |= {f"kl_rev_mc{end}": run.kl[f"kl_rev_mc{end}"] for end in ("", "_se")}
        rows.append(row | {K1_OF_PAIRS: -run.kl["kl_fwd_data"], f"{K1_OF_PAIRS}_se": run.kl["kl_fwd_data_se"]})
    return rows


def best_of_n_bound(n: int) -> float:
    """KL(best of n || what they were drawn from) is at most this, nats (Beirami et al. 2024, arXiv 2401.01879)."""
    return math.log(n) - (n - 1) / n


def furthest_below_zero(rows: list[Row]) -> Row | None:
    """The run whose k1 on the pairs' answers is the lowest, if that is negative."""
    lowest = min((row for row in rows if K1_OF_PAIRS in row), key=lambda row: row[K1_OF_PAIRS], default=None)
    return lowest if lowest is not None and lowest[K1_OF_PAIRS] < 0.0 else None


def _scores(metrics: Row, name: str) -> Row:
    return {f"{key}{end}": metrics[f"{key}/{name}{end}"] for key in (SCORE, SHARE) for end in ("", "_low", "_high")}
