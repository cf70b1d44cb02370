"""Scores of both answers of each pair, on the scale of Bradley-Terry: P(chosen is better) = sigmoid(difference).

A judge knows the difference alone, logit / 2 (judging/judges/interface.py), of which each answer is given a half; the
true reward is one of each answer. Neither need be in nats: no pairwise judge promises that its logits are calibrated.
So all are divided by one temperature T, the one under which the labels of the evaluation pairs are likeliest.

Limit: a judge that was trained on the training pairs is surer of these than of the evaluation pairs, and T corrects the
latter. Both splits' metrics are kept side by side: how far train/accuracy lies above eval/accuracy says how much.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.special import log_expit

from epsilon_dpo.data.generated.truth import true_reward
from epsilon_dpo.judging.judges.interface import Judge, Question
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row, read_json, read_jsonl

SPLITS = ("train", "eval")


def pair_questions(pairs: Path, validated: Path) -> dict[str, list[tuple[str, Question]]]:
    """Id and text of the pairs of out/pairs, chosen answer first, by split.

    The text is that of the dataset's rows; of on-policy training pairs it is what stage `pairs` wrote beside them.
    """
    found = {}
    for split in SPLITS:
        on_policy = split == "train" and read_json(pairs / "pairs.json")["source"] == "on_policy"
        texts = pairs / "train_text.jsonl" if on_policy else validated / f"{split}.jsonl"
        found[split] = [
            (row["id"], Question(row["prompt"], row["chosen"][0]["content"], row["rejected"][0]["content"]))
            for row in read_jsonl(texts)
        ]
    return found


def judged_scores(judge: Judge, questions: Sequence[Question]) -> tuple[np.ndarray, float]:
    """Half of each difference for the chosen and minus it for the rejected answer, [n, 2], not yet divided by T; and
    the share of pairs that the judge refused to compare, which are 0 apart."""
    verdicts = judge.compare(list(questions))
    halves = [verdict.logit / 4.0 for verdict in verdicts]
    refused = float(np.mean([verdict.refused for verdict in verdicts]))
    return np.array([(half, -half) for half in halves], dtype=np.float64).reshape(-1, 2), refused


def true_scores(questions: Sequence[Question], dataset: Path) -> np.ndarray:
    """The true reward of both answers, [n, 2], not yet divided by T.

    Raises:
        UserError: dataset.json does not say that the data have one.
    """
    if not read_json(dataset)["true_reward"]:
        raise UserError(
            "params.yaml: margins.source: true_reward needs data whose reward is known, and these come from people; "
            "set it to judge."
        )
    rewards = [[true_reward(prompt[-1]["content"], answer) for answer in answers] for prompt, *answers in questions]
    return np.array(rewards, dtype=np.float64).reshape(-1, 2)


def fitted_temperature(margins: np.ndarray) -> float:
    """The T that maximises the sum of log sigmoid(margin / T), the likelihood that each chosen answer was preferred.

    The sum is concave in 1 / T, so there is one, where the mean of margin * sigmoid(-margin / T) is 0.

    Args:
        margins: [n], chosen minus rejected, of pairs that the judge was not trained on.

    Raises:
        UserError: there is none: all labels agree with the margins (T would be 0), or the margins say nothing of the
            labels (T would be infinite or below 0).
    """
    from scipy.optimize import brentq  # here, because a stated temperature needs no optimiser

    remedy = "state margins.temperature in params.yaml"
    if not margins.any():
        raise UserError(f"margins: all {len(margins)} evaluation pairs have equal scores; choose another judge.")
    if not (margins < 0.0).any():
        raise UserError(
            f"margins: the labels of all {len(margins)} evaluation pairs agree with the scores, so no temperature can "
            f"be fitted; {remedy}."
        )
    if margins.sum() <= 0.0:
        raise UserError(
            f"margins: the labels of the {len(margins)} evaluation pairs do not agree with the scores, so no "
            f"temperature can be fitted; choose another judge, or {remedy}."
        )
    scale = float(np.abs(margins).max())  # the search is in units of it, so that a judge's own unit does not matter
    units = margins / scale

    def slope(inverse: float) -> float:
        return float((units * np.exp(log_expit(-inverse * units))).sum())

    most = 1.0
    while slope(most) > 0.0:
        most *= 2.0
    return scale / float(brentq(slope, 0.0, most, xtol=1e-12, rtol=1e-12))


def margin_metrics(margins: np.ndarray) -> dict[str, float]:
    """Of [n] margins R in nats: `accuracy` (ties a half), `mean_abs`, `negative_share` (the label is contradicted), and
    `nll`, the mean of -log sigmoid(R), of a judge's rescaled logits smallest where they are calibrated."""
    return {
        "accuracy": float(((margins > 0.0) + 0.5 * (margins == 0.0)).mean()),
        "mean_abs": float(np.abs(margins).mean()),
        "negative_share": float((margins < 0.0).mean()),
        "nll": float(-log_expit(margins).mean()),
    }


def scaled_scores(
    scores: dict[str, np.ndarray], ids: dict[str, list[str]], temperature: float | None
) -> tuple[dict[str, list[Row]], dict[str, float]]:
    """Rows {id, chosen_score, rejected_score} by split, and the metrics of both splits with `temperature`.

    Args:
        scores: [n, 2] by split, chosen and rejected.
        temperature: T; None: fitted on the evaluation pairs.
    """
    if temperature is None:
        temperature = fitted_temperature(scores["eval"][:, 0] - scores["eval"][:, 1])
    rows, metrics = {}, {"temperature": temperature}
    for split, of_split in scores.items():
        scaled = of_split / temperature
        rows[split] = [
            {"id": id_, "chosen_score": chosen, "rejected_score": rejected}
            for id_, (chosen, rejected) in zip(ids[split], scaled.tolist(), strict=True)
        ]
        found = margin_metrics(scaled[:, 0] - scaled[:, 1])
        metrics |= {f"{split}/{name}": value for name, value in found.items()}
    return rows, metrics
