"""The sentiment classifier as a judge: scores by hand, what is refused, and VADER as another opinion."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from epsilon_dpo.judging.judges.interface import Question
from epsilon_dpo.judging.judges.loading import load_judge
from epsilon_dpo.judging.judges.sentiment import Sentiment, whole_text
from epsilon_dpo.judging.scoring.comparisons import run_comparisons
from epsilon_dpo.judging.scoring.intervals import Intervals
from epsilon_dpo.judging.scoring.scoring import by_opponent, judge_comparisons
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import write_json

PROMPT = [{"role": "user", "content": "the film is"}]
WORTH = {"good": 1.5, "bad": -2.0, "great": 9.0}


def by_hand(texts: list[str]) -> NDArray[np.float64]:
    """The sum of what each token is worth."""
    return np.array([sum(WORTH.get(token, 0.0) for token in text.split()) for text in texts])


def test_scores_are_clipped_logits_and_differences_swap_sign() -> None:
    judge = Sentiment(by_hand, clip=4.0)
    good_bad, great_bad, same = judge.compare(
        [Question(PROMPT, "good", "bad"), Question(PROMPT, "great", "bad"), Question(PROMPT, "so good", "so good")]
    )
    assert (good_bad.f_ab, good_bad.f_ba, good_bad.score_a, good_bad.score_b) == (3.5, -3.5, 1.5, -2.0)
    assert (great_bad.f_ab, great_bad.score_a) == (6.0, 4.0), "9 nats are cut to 4"
    assert great_bad.probability_a == pytest.approx(1.0 / (1.0 + math.exp(-9.0))), "of the classifier, not cut"
    assert (same.f_ab, same.logit, same.len_a) == (0.0, 0.0, 7)
    assert judge.rank([PROMPT, PROMPT], [["bad", "great"], ["good"]]) == [[-2.0, 4.0], [1.5]]
    assert judge.rank([], []) == [] and judge.usage() == {}


@pytest.mark.parametrize("between", [" ", ""], ids=["spaces", "none"])
def test_equal_length_is_found_in_a_language_without_spaces(between: str) -> None:
    """This judge prefers the longer answer and sees nothing else."""
    judge = Sentiment(lambda texts: np.array([0.01 * text.count("好") for text in texts]), clip=4.0)

    def row(n: int) -> dict[str, Any]:
        prompt = [{"role": "user", "content": f"{n}"}]
        answers = {"response": between.join("好" * (n % 11 + 4)), "chosen": between.join("好" * 6)}
        return {"id": f"{n}", "prompt": prompt, "finish_reason": "stop"} | answers

    rows = [row(n) for n in range(66)]
    found = by_opponent(judge_comparisons(judge, run_comparisons(rows, rows), None), Intervals(0.95, 17))
    assert found["win_rate/chosen"] > 0.7 and found["lc_win_rate/chosen"] == pytest.approx(0.5, abs=0.15)
    assert found["length_slope/chosen"] > 3 and found["similar_length_win_rate/chosen_n"] < 66


def test_the_prompt_counts_and_an_empty_answer_is_the_prompt_alone() -> None:
    judge = Sentiment(by_hand, clip=4.0)
    assert whole_text(PROMPT, " a joy \n") == "the film is a joy" and whole_text(PROMPT, " ") == "the film is"
    prompt = [{"role": "user", "content": "a good film"}]
    assert judge.rank([prompt, [{"role": "user", "content": ""}]], [["", "bad"], [""]]) == [[1.5, -0.5], [0.0]]


def saved(folder: Path, coefficients: Any) -> Path:
    write_json(folder / "judge.json", {"kind": "sentiment", "classifier": "tfidf", "clip": 4.0})
    write_json(folder / "vocabulary.json", ["bad", "good"])
    weights = {"idf": np.array([1.0, 2.0]), "coefficients": np.array(coefficients), "intercept": np.array([0.25])}
    save_file(weights, folder / "model.safetensors")
    return folder


def test_tfidf_by_hand(tmp_path: Path) -> None:
    """One known term has weight 1 after normalisation; twice as often is 1 + log 2 before it; unknown ones are none."""
    judge = load_judge(saved(tmp_path, [-3.0, 2.0]))
    one, other, mixed, neither = judge.rank(
        [[{"role": "user", "content": ""}]], [["good film", "Bad", "good bad bad", "no"]]
    )[0]
    length = math.hypot(2.0, 1.0 + math.log(2.0))
    assert (one, other, neither) == (2.25, -2.75, 0.25)
    assert mixed == pytest.approx((2.0 * 2.0 - 3.0 * (1.0 + math.log(2.0))) / length + 0.25)


def test_two_logits_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"coefficients of shape \[2, 2\] for 2 terms; .* has one logit"):
        load_judge(saved(tmp_path, [[-3.0, 2.0], [3.0, -2.0]]))


@pytest.mark.parametrize("name", ["vocabulary.json", "model.safetensors"])
def test_a_missing_or_damaged_file_is_one_sentence(tmp_path: Path, name: str) -> None:
    saved(tmp_path, [-3.0, 2.0])
    (tmp_path / name).write_bytes(b"{")
    with pytest.raises(UserError, match="holds no sentiment classifier of this version"):
        load_judge(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match="holds no sentiment classifier of this version"):
        load_judge(tmp_path)


def test_vader_is_another_opinion(tmp_path: Path) -> None:
    """Its compound of one known token s is s / sqrt(s^2 + 15), so the logit of (1 + c) / 2 is 2 asinh(s / sqrt(15))."""
    pytest.importorskip("vaderSentiment")
    write_json(tmp_path / "judge.json", {"kind": "sentiment", "classifier": "vader", "clip": 4.0})
    judge = load_judge(tmp_path)
    good, bad, nothing = judge.rank([PROMPT], [["good", "horrible", "a table"]])[0]
    assert good == pytest.approx(2.0 * math.asinh(1.9 / math.sqrt(15.0)), abs=1e-3)  # the lexicon's 1.9
    assert bad < -1.0 and nothing == 0.0
    extreme = " ".join(["wonderful", "superb", "great"] * 40)
    assert judge.rank([PROMPT], [[extreme]]) == [[4.0]], "a compound of 1 is no infinite logit"
