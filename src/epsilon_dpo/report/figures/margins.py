"""The paper's Figure 4 and Tables 5-8: the margins of evaluation pairs by what ε-DPO would decide on them."""

import json
import math
from typing import Any

from epsilon_dpo.analysis.intervals.rates import mean_over_prompts
from epsilon_dpo.pipeline.stage.files import prompt_identity
from epsilon_dpo.report.figures.points import Row

# Groups of stage monotonicity: how the log-prob margin of a pair changes as beta rises.
DECREASING, INCREASING = "decreasing", "increasing"

MARGINS = (
    *("run", "beta", "group", "n", "share", "margin", "margin_low", "margin_high"),
    *("implicit_margin", "implicit_margin_low", "implicit_margin_high"),
    *("first_order_agreement", "sign_of_h_agreement"),
)

# The paper's four tables, in its order: title, group, whether the largest or the smallest margin.
TABLES = (
    ("Table 5: the largest margin among the decreasing pairs", DECREASING, max),
    ("Table 6: the largest margin among the increasing pairs", INCREASING, max),
    ("Table 7: the smallest margin among the increasing pairs", INCREASING, min),
    ("Table 8: the smallest margin among the decreasing pairs", DECREASING, min),
)


def beta_of_rewards(config: Row, trained: Row) -> float | None:
    """The beta of which h makes the margin of the policy's implicit rewards, or None: they are made otherwise.

    A reward of beta times the answer's log-ratio against the SFT policy is DPO's; other methods divide by the length,
    have no reference or move it. What a method's rewards are it says itself, in the evaluation after its last step: on
    the same pairs their means must be beta times those of the log-ratios, for the chosen answers as for the margins.

    Args:
        config: the run's entry in params.yaml, whose `beta` is the one it starts from.
        trained: metrics.json of stage align; its `beta` is the one at the end, of a method that moves it.
    """
    beta = trained.get("beta", config.get("beta"))
    if beta is None or "eval_margins_raw" not in trained:
        return None
    rewards = (trained["eval_rewards/margins"], trained["eval_rewards/chosen"])
    ratios = (trained["eval_margins_raw"], -trained["eval_kl/fwd_proxy"])  # the second of the initial reference
    # Float32 rounds each pair's value, of which little may be left in the mean; rewards made otherwise differ by more.
    same = (math.isclose(x, beta * h, rel_tol=1e-3) for x, h in zip(rewards, ratios, strict=True))
    return float(beta) if all(same) else None


def margins(run: str, beta: float | None, records: list[Row], pairs: list[Row], confidence: float) -> list[Row]:
    """Mean margin of each group of pairs of at least two prompts, which are what its interval takes for sampled.

    Args:
        beta: of `beta_of_rewards`.
        records: rows of stage monotonicity.
        pairs: rows of out/validate/eval.jsonl.

    Returns:
        rows of MARGINS: `n` pairs, a `share` of all; `margin` h, the log-ratio of chosen minus rejected in nats;
        `implicit_margin` beta h and `beta`, absent without one; `first_order_agreement`, the share of the group's pairs
        on which the decision is the sign of h - (K_w - K_l); `sign_of_h_agreement`, on which it is that of h alone.
    """
    rows = []
    prompts = {pair["id"]: json.dumps(prompt_identity(pair["prompt"])) for pair in pairs}
    for group, step in ((DECREASING, 1), (INCREASING, -1)):
        members = [record for record in records if record["group"] == group]
        of = [prompts[record["id"]] for record in members]
        if len(set(of)) < 2:
            continue
        h = mean_over_prompts([record["margin"] for record in members], of, confidence)
        n = len(members)
        row: dict[str, Any] = {"run": run, "group": group, "n": n, "share": n / len(records)}
        row |= h.columns("margin")
        if beta is not None:
            row |= {"beta": beta} | {f"implicit_{name}": beta * value for name, value in h.columns("margin").items()}
        for name, said in (("first_order_agreement", "first_order"), ("sign_of_h_agreement", "margin")):
            row[name] = sum(record[said] * step > 0 for record in members) / len(members)
        rows.append(row)
    return rows


def quoted(run: str, beta: float | None, records: list[Row], pairs: list[Row]) -> list[Row]:
    """The four pairs of Tables 5-8 under the policy of `run`; a group without pairs gives none.

    Args:
        beta: of `beta_of_rewards`.
        records: rows of stage monotonicity.
        pairs: rows of out/validate/eval.jsonl.

    Returns:
        title, run, id, direction, margin (h, nats), implicit_margin (beta h or None), prompt (messages), chosen,
        rejected (texts).
    """
    texts = {pair["id"]: pair for pair in pairs}
    found = []
    for title, group, extreme in TABLES:
        members = [record for record in records if record["group"] == group]
        if not members:
            continue
        record = extreme(members, key=lambda member: member["margin"])
        pair = texts[record["id"]]
        found.append(
            {
                "title": title,
                "run": run,
                "id": record["id"],
                "direction": group,
                "margin": record["margin"],
                "implicit_margin": None if beta is None else beta * record["margin"],
                "prompt": pair["prompt"],
                "chosen": pair["chosen"][-1]["content"],
                "rejected": pair["rejected"][-1]["content"],
            }
        )
    return found
