"""Over-optimisation (Gao et al., 2023, arXiv 2210.10760): what a reward model promises against what is true, over KL.

A policy that is moved further from the reference scores higher by the reward model for longer than it gets better. Of
both rewards only what lies above the reference's own answers to the same prompts is shown, because the zero of a reward
is arbitrary. They have one scale, nats, where the reward model is a Bradley-Terry model of labels that were drawn from
the true reward at temperature 1.

Best-of-n is the curve to compare with: of n answers of the reference the one that the reward model likes most. From N
answers per prompt its mean is estimated without bias for each n <= N, over all subsets of n; its KL is at most
log n - (n - 1) / n (Beirami et al., 2024, arXiv 2401.01879), which is what is drawn.
"""

from math import comb, log
from pathlib import Path

import numpy as np

from epsilon_dpo.analysis.intervals.bootstrap import Floats, cluster_bootstrap
from epsilon_dpo.analysis.intervals.rates import Estimate
from epsilon_dpo.pipeline.stage.files import Row, read_json, read_jsonl
from epsilon_dpo.pipeline.stage.runs import CHOSEN, SFT, metrics_folder, policy_paths
from epsilon_dpo.report.figures.points import ENDS, read_estimate

KL = "kl_rev_rb"  # KL(policy || reference), the penalty of the objective
BEST_OF_N = "best of n"
REWARDS = {"judge": "score", "true reward": "true"}  # fields of a record, with _a and _b
COLUMNS = (
    *("family", "run", "place", "scorer"),
    *(f"kl{end}" for end in ENDS),
    *(f"reward{end}" for end in ENDS),
    "n",
)
DRAWS = 10_000


def over_optimisation(out: Path, family_of: dict[str, str], confidence: float, seed: int) -> list[Row]:
    """Rows of COLUMNS: each policy of each run, its snapshots among them, and best-of-n, by both rewards.

    `reward` is the mean above the reference's answers to the same prompts, in nats; `kl` nats per answer, without an
    interval for best-of-n; `n` counts prompts. Empty unless the judge scores single answers and the truth is known.
    """
    controls = read_jsonl(out / "controls" / "records.jsonl")
    own = [record for record in controls if record["answer"] == SFT and record["opponent"] == CHOSEN]
    if not own or any(f"{field}_a" not in own[0] for field in REWARDS.values()):
        return []
    rows = []
    for run, family in family_of.items():
        for place in policy_paths(metrics_folder(out, run)):
            name = {"family": family, "run": run, "place": place}
            kl = read_estimate(read_json(out / "kl" / run / place / "metrics.json"), KL)
            records = read_jsonl(out / "score" / run / place / "records.jsonl")
            against = [record for record in records if record["opponent"] == SFT]
            prompts = [record["prompt_id"] for record in against]
            for scorer, field in REWARDS.items():
                above = [record[f"{field}_a"] - record[f"{field}_b"] for record in against]
                reward = cluster_bootstrap(above, prompts, confidence, DRAWS, seed)
                rows.append(name | {"scorer": scorer} | kl.columns("kl") | reward.columns("reward") | {"n": reward.n})
    return rows + _best_of_n(own, confidence, seed)


def _best_of_n(records: list[Row], confidence: float, seed: int) -> list[Row]:
    """For n = 2, 4, 8, ... up to the answers of each prompt; empty if a prompt has one answer."""
    answers: dict[str, list[Row]] = {}
    for record in records:
        answers.setdefault(record["prompt_id"], []).append(record)
    prompts = [record["prompt_id"] for record in records]
    fewest = min(len(of_prompt) for of_prompt in answers.values())
    rows = []
    for n in (2**power for power in range(1, fewest.bit_length()) if 2**power <= fewest):
        bound = log(n) - (n - 1) / n
        for scorer, field in REWARDS.items():
            above = {prompt: _above(of_prompt, field, n) for prompt, of_prompt in answers.items()}
            weighed = [above[record["prompt_id"]] for record in records]  # by its answers, as the policies' rewards are
            reward = cluster_bootstrap(weighed, prompts, confidence, DRAWS, seed)
            rows.append(
                {"family": BEST_OF_N, "run": f"best of {n}", "place": ".", "scorer": scorer}
                | Estimate(bound, bound, bound, len(answers)).columns("kl")
                | reward.columns("reward")
                | {"n": len(answers)}
            )
    return rows


def _above(answers: list[Row], field: str, n: int) -> float:
    """The mean of `field` of the best of n answers minus that of one, both over all choices from `answers`."""
    ranked = sorted(answers, key=lambda record: record["score_a"])
    values = np.array([record[f"{field}_a"] for record in ranked], dtype=np.float64)
    return float(best_of_n_weights(len(ranked), n) @ values - values.mean())


def best_of_n_weights(count: int, n: int) -> Floats:
    """[count], the chance that each of `count` answers, from the worst to the best, is the best of n drawn at once.

    C(i - 1, n - 1) / C(count, n) of the i-th: it is drawn, and the others from those below it.
    """
    return np.array([comb(i, n - 1) / comb(count, n) for i in range(count)], dtype=np.float64)
