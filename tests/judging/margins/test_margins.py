"""Margins in nats: whose texts they are of, what a judge and the truth say, and the temperature of held-out labels."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from epsilon_dpo.data.sources.generated import read_synthetic
from epsilon_dpo.data.sources.params import SyntheticSource
from epsilon_dpo.judging.judges.interface import Judge, Question, Verdict
from epsilon_dpo.judging.margins.margins import (
    fitted_temperature,
    judged_scores,
    margin_metrics,
    pair_questions,
    scaled_scores,
    true_scores,
)
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import write_json, write_jsonl

PROMPT = [{"role": "user", "content": "Tell me about the Moon."}]
FACT, FALSE = "The Moon orbits the Earth.", "The Moon orbits Mars."


class ByLength(Judge):
    """Three nats per character of the longer answer, and one for the first place."""

    def compare(self, questions: list[Question]) -> list[Verdict]:
        logits = [3.0 * (len(a) - len(b)) for _, a, b in questions]
        return [Verdict(1.0 + logit, 1.0 - logit, 0, 0) for logit in logits]


def row(id_: str, chosen: str, rejected: str) -> dict[str, object]:
    sides = {"chosen": chosen, "rejected": rejected}
    return {"id": id_, "prompt": PROMPT} | {k: [{"role": "assistant", "content": v}] for k, v in sides.items()}


@pytest.mark.parametrize("source", ["dataset", "on_policy"])
def test_the_texts_are_those_behind_the_pairs(tmp_path: Path, source: str) -> None:
    write_json(tmp_path / "pairs.json", {"source": source})
    write_jsonl(tmp_path / "train.jsonl", [row("data", FACT, FALSE)])
    write_jsonl(tmp_path / "eval.jsonl", [row("held out", FALSE, FACT)])
    write_jsonl(tmp_path / "train_text.jsonl", [row("own/0-1", "a", "b")])
    found = pair_questions(tmp_path, tmp_path)
    own = ("own/0-1", Question(PROMPT, "a", "b"))
    assert found["train"] == [own if source == "on_policy" else ("data", Question(PROMPT, FACT, FALSE))]
    assert found["eval"] == [("held out", Question(PROMPT, FALSE, FACT))]


def test_a_judges_margin_is_half_its_logit_and_changes_sign_with_the_pair() -> None:
    """P(a better) = sigmoid(logit / 2), logit = f_ab - f_ba, in which the first place's nat cancels."""
    scores, refused = judged_scores(ByLength(), [Question(PROMPT, "abc", "a"), Question(PROMPT, "a", "abc")])
    assert scores.tolist() == [[3.0, -3.0], [-3.0, 3.0]] and refused == 0.0
    assert (scores[:, 0] - scores[:, 1]).tolist() == [6.0, -6.0]


def test_pairs_that_the_judge_refuses_are_counted() -> None:
    class Silent(ByLength):
        def compare(self, questions: list[Question]) -> list[Verdict]:
            return [*super().compare(questions[:3]), Verdict(0.0, 0.0, 0, 0, refused=True)]

    scores, refused = judged_scores(Silent(), [Question(PROMPT, "abc", "a")] * 4)
    assert refused == 0.25 and scores[3].tolist() == [0.0, 0.0] != scores[2].tolist()


def test_true_scores_are_the_rewards_of_generated_data_alone(tmp_path: Path) -> None:
    write_json(tmp_path / "dataset.json", {"true_reward": True})
    assert true_scores([Question(PROMPT, FACT, FALSE)], tmp_path / "dataset.json").tolist() == [[1.5, -1.0]]
    write_json(tmp_path / "dataset.json", {"true_reward": False})
    with pytest.raises(UserError, match=r"margins\.source: true_reward needs data whose reward is known"):
        true_scores([], tmp_path / "dataset.json")


@pytest.mark.parametrize("temperature", [0.2, 1.0, 40.0])
def test_the_temperature_is_the_one_labels_were_drawn_with(temperature: float) -> None:
    rng = np.random.default_rng(3)
    margins = temperature * rng.normal(0.0, 2.0, 200_000)
    labels = rng.random(len(margins)) < expit(margins / temperature)
    fitted = fitted_temperature(np.where(labels, margins, -margins))
    assert fitted == pytest.approx(temperature, rel=0.02)


def test_the_temperature_maximises_the_likelihood() -> None:
    margins = np.array([3.0, 1.0, -0.5, 2.0, 0.0, -4.0, 5.0])
    fitted = fitted_temperature(margins)
    nll = [margin_metrics(margins / (fitted * factor))["nll"] for factor in (0.99, 1.0, 1.01)]
    assert nll[1] < min(nll[0], nll[2])
    assert fitted_temperature(1e-9 * margins) == pytest.approx(1e-9 * fitted, rel=1e-9)


def test_a_margin_of_0_is_half_a_right_answer() -> None:
    """Of 2, 0, 0 and -1 nats: (1 + 1/2 + 1/2 + 0) / 4; sigma(0) is 1/2."""
    assert margin_metrics(np.array([2.0, 0.0, 0.0, -1.0])) == pytest.approx(
        {
            "accuracy": 0.5,
            "mean_abs": 0.75,
            "negative_share": 0.25,
            "nll": (math.log(1.0 + math.exp(-2.0)) + 2.0 * math.log(2.0) + math.log(1.0 + math.e)) / 4.0,
        }
    )


def test_one_label_in_four_against_equal_margins() -> None:
    """sigma(m / T) = 3 / 4, so T = m / log 3."""
    assert fitted_temperature(np.array([2.0, 2.0, 2.0, -2.0])) == pytest.approx(2.0 / math.log(3.0), rel=1e-11)


@pytest.mark.parametrize(
    ("margins", "what"), [([1.0, 2.0, 0.0], "agree with the scores"), ([1.0, -2.0], "do not agree")]
)
def test_where_there_is_no_temperature_one_must_be_stated(margins: list[float], what: str) -> None:
    with pytest.raises(UserError, match=what) as error:
        fitted_temperature(np.array(margins))
    assert "state margins.temperature in params.yaml" in str(error.value)


def test_a_judge_that_tells_nothing_apart_has_none() -> None:
    with pytest.raises(UserError, match="all 3 evaluation pairs have equal scores; choose another judge"):
        fitted_temperature(np.zeros(3))


def test_scores_are_divided_by_the_temperature_of_the_evaluation_pairs() -> None:
    scores = {"train": np.array([[4.0, -4.0], [-1.0, 1.0]]), "eval": np.array([[1.0, -1.0]] * 3 + [[-1.0, 1.0]])}
    ids = {"train": ["a", "b"], "eval": ["c", "d", "e", "f"]}
    rows, metrics = scaled_scores(scores, ids, None)
    assert metrics["temperature"] == pytest.approx(2.0 / math.log(3.0), rel=1e-11)
    assert [row["id"] for row in rows["train"]] == ["a", "b"]
    assert rows["train"][1]["chosen_score"] == pytest.approx(-math.log(3.0) / 2.0)
    margin = rows["eval"][0]["chosen_score"] - rows["eval"][0]["rejected_score"]
    assert margin == pytest.approx(math.log(3.0))
    assert metrics["eval/accuracy"] == 0.75 and metrics["eval/negative_share"] == 0.25
    assert metrics["eval/mean_abs"] == pytest.approx(math.log(3.0))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert metrics["eval/nll"] == pytest.approx(entropy)
    assert metrics["train/mean_abs"] == pytest.approx(2.5 * math.log(3.0))
    stated, of_stated = scaled_scores(scores, ids, 4.0)
    assert stated["train"][0] == {"id": "a", "chosen_score": 1.0, "rejected_score": -1.0}
    assert of_stated["temperature"] == 4.0


def test_the_true_reward_of_generated_data_is_in_nats_already(tmp_path: Path) -> None:
    """Its labels are Bradley-Terry draws at fetch.label_temperature."""
    source = SyntheticSource(source="synthetic", train_pairs=20_000, eval_share=0.5, label_temperature=1.0)
    pairs = read_synthetic(source, seed=4).train
    questions = [Question(p["chosen"][:1], p["chosen"][1]["content"], p["rejected"][1]["content"]) for p in pairs]
    write_json(tmp_path / "dataset.json", {"true_reward": True})
    scores = true_scores(questions, tmp_path / "dataset.json")
    assert fitted_temperature(scores[:, 0] - scores[:, 1]) == pytest.approx(1.0, abs=0.03)
