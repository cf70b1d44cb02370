"""Captions, the text below each figure: n, estimator, judge and split, and what must not be read into it."""

from epsilon_dpo.report.figures.over_optimisation import BEST_OF_N
from epsilon_dpo.report.figures.pareto import Pareto
from epsilon_dpo.report.figures.points import Point, Row

KINDS = {  # judge.json
    "pairrm": "a PairRM",
    "reward_model": "a reward model",
    "sentiment": "a sentiment classifier",
    "llm": "an LLM",
}


def pareto_caption(found: Pareto, point: Point, judge: Row, confidence: float) -> str:
    """Of the paper's Figure 5; `point` is any of its policies."""
    truth = ", and decided by the true reward that generated the data" if "true reward" in point.win_rate else ""
    said = f"""Share of a policy's answers that win against the dataset's chosen answers (ties count half), plotted
        against forward KL (kl_fwd_rb: summed over the full vocabulary along the SFT model's own answers), on
        {len(point.kl_by_prompt)} prompts of the evaluation split, {_judged_by(judge)}{truth}. Bars:
        {_level(confidence)} intervals over prompts. Hollow: a dominated policy. Another one wins more at less KL on the
        same prompts, both outside the {_level(confidence)} intervals of their differences, all pairs together. The star
        is the SFT policy. The KL axis has a square-root scale. """
    if not found.references:
        return _flat(said + "No two runs differ by β alone, so there is no frontier to draw.")
    corner = next(iter(found.references.values()))
    return _flat(
        said
        + f"""A family is the policies that differ only by β. Its line is the best that they attain with at most this
        KL. The best of several noisy policies looks better than it is, and the band around the line allows for that:
        with at least {_level(confidence)} confidence it contains the family's true line at all KLs together. It comes
        from intervals that hold for all policies of the family together, and is wider than necessary where these
        differ. Each family has its panel, with the lines of the others in grey. Hypervolume: the area between a line
        and SFT's win rate (taken as known), up to the KL of {corner.kl:.2f} nats, which every family reaches. Its
        interval is of the same kind, for each family by itself."""
        + (" Seeds of one β are one point of their line, the mean over them." if found.averages_seeds else "")
    )


def dynamics_caption(rows: list[Row], decided: list[Row], judge: Row, smoothing: float, confidence: float) -> str:
    """Of the paper's Figure 3."""
    truth = (
        ", and decided by the true reward that generated the data" if any("true" in r["metric"] for r in rows) else ""
    )
    said = f"""By epoch: forward KL (kl_fwd_rb) and win rate over the chosen answers of the policies kept during
        training, on {rows[0]["n"]} prompts of the evaluation split, {_judged_by(judge)}{truth}, with
        {_level(confidence)} intervals over prompts; bars of one epoch are drawn side by side. Then the win rate against
        the KL. """
    if not decided:
        return _flat(said)
    return _flat(
        said
        + f"""By step: the shares of a training step's pairs whose β was lowered and raised, moving averages with weight
        {smoothing:g} on the past. In exact arithmetic almost every pair is one or the other, whatever ε is. That the
        released code decides more often under a larger ε is an effect of its rounding to bfloat16, which
        step_precision: official_bf16 has, too (docs/replication.md, levels controlled and bfloat16)."""
    )


def over_optimisation_caption(rows: list[Row], judge: Row, teacher: Row | None, confidence: float) -> str:
    """Of the figure after Gao et al. (2023); `teacher` is what policies learned from, if not from `judge`."""
    best = [row["run"] for row in rows if row["family"] == BEST_OF_N]
    said = f"""Mean reward of a policy's answers above that of the reference's to the same {rows[0]["n"]} prompts of the
        evaluation split, {_judged_by(judge)} and by the true reward that generated the data, against KL(policy ‖
        reference) (kl_rev_rb), with {_level(confidence)} intervals over prompts. If the
        labels were drawn at temperature 1 and without noise, a reward model learns the truth's scale from them; where
        its line then lies above the truth's, it promises what is not there. With other labels only the shapes of the
        two lines can be compared. Lines join the policies of a family in the order of their KL. Online runs were
        trained on the block `scorer` of params.yaml, the others on the pairs' labels."""
    if teacher:
        said += f""" What was learned from a judge was learned from another one, the teacher
            ({KINDS[teacher["kind"]]}, {teacher["origin"]}): the judge's line is not the reward that was trained on."""
    if best:
        said += f""" Best of n (to n = {best[-1].rsplit(" ", 1)[-1]}): of n answers of the reference, the one that the
            judge likes most, in the mean over all choices of n. Its KL is the upper bound log n − (n − 1)/n."""
    return _flat(said)


def margins_caption(rows: list[Row], pairs: int, epsilon: float, confidence: float) -> str:
    """Of the paper's Figure 4; `pairs` is how many evaluation pairs the margins were looked for on."""
    if not rows:
        return _flat(
            f"""There are no margins to draw: of the {pairs} evaluation pairs, under no final policy would ε-DPO
            (ε = {epsilon:g}) make the same decision on pairs of at least two prompts. While a policy equals its
            reference, it decides on no pair."""
        )
    without = list(dict.fromkeys(row["run"] for row in rows if "implicit_margin" not in row))
    reward = """Implicit reward: β times an answer's log-ratio against the SFT policy, with the β in force at the end of
        the training, if the run's method makes its rewards so."""
    if without:
        reward += f" Otherwise made, and not drawn: those of {', '.join(without)}."
    return _flat(
        f"""Mean margins of the {pairs} evaluation pairs under each final policy, by the decision of ε-DPO
        (ε = {epsilon:g}): the log-prob margin of a decreasing pair falls as β rises, that of an increasing one rises
        with it. Bars: {_level(confidence)} intervals of the mean. {reward} To first order in ε the
        decision is the sign of h − (K(chosen) − K(rejected)), where K is the sum of KL(policy ‖ reference) over an
        answer. So it follows almost from the definition that increasing pairs have smaller margins. At the right: how
        often the decision is that sign (filled), and how often it is the sign of h alone (hollow)."""
    )


def _judged_by(judge: Row) -> str:
    return f"judged by {KINDS[judge['kind']]} ({judge['origin']})"


def _level(confidence: float) -> str:
    return f"{100 * confidence:g} %"


def _flat(text: str) -> str:
    return " ".join(text.split())
