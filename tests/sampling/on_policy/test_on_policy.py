"""Pairs from ranked answers, by hand, and the preset that makes them."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from epsilon_dpo.check.params_file import load_file
from epsilon_dpo.data.pairs.pairs import preference_pairs
from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.sampling.on_policy.on_policy import distinct_answers, one_row_per_prompt
from epsilon_dpo.sampling.on_policy.params_candidates import Candidates

ROOT = Path(__file__).resolve().parent.parent.parent.parent
PROMPT = [{"role": "user", "content": "?"}]


def ranked(*scores: float | None) -> dict:
    return {"id": "r", "prompt": PROMPT, "answers": [f"a{n}" for n in range(len(scores))], "scores": list(scores)}


def ids(row: dict, choose: str, min_margin: float = 0.0) -> list[str]:
    return [pair["id"].removeprefix("r/") for pair in preference_pairs([row], choose, min_margin)[0]]


def test_choices_by_hand() -> None:
    row = ranked(0.5, 2.0, -1.0, 0.0)
    assert ids(row, "best_worst") == ["1-2"]
    assert ids(row, "best_against_rest") == ["1-0", "1-3", "1-2"]
    assert ids(row, "all") == ["1-0", "1-3", "1-2", "0-3", "0-2", "3-2"]
    assert ids(row, "all", min_margin=1.5) == ["1-0", "1-3", "1-2", "0-2"]
    (pair,), _ = preference_pairs([row], "best_worst", 0.0)
    assert pair["chosen"] == [{"role": "assistant", "content": "a1"}] and pair["rejected"][0]["content"] == "a2"
    assert (pair["chosen_score"], pair["rejected_score"], pair["prompt"]) == (2.0, -1.0, PROMPT)


def test_equal_and_close_scores_make_no_pair_and_are_named() -> None:
    _, left_out = preference_pairs([ranked(1.0, 1.0), ranked(2.0, 0.0, 1.75)], "all", 0.5)
    assert left_out == [{"id": "r/0-1", "reason": "tied"}, {"id": "r/0-2", "reason": "below_min_margin"}]
    assert preference_pairs([ranked(3.0, 3.0, 3.0)], "best_worst", 0.0) == ([], [{"id": "r/0-2", "reason": "tied"}])
    assert ids(ranked(1.0, 1.0), "best_worst") == []
    assert ids(ranked(1.0, 1.0, 0.0), "all") == ["0-2", "1-2"]
    assert ids(ranked(0.0, 1.0, 1.0), "best_worst") == ["1-0"]  # the earlier of two best samples


def test_an_answer_that_the_judge_refused_is_in_no_pair() -> None:
    """A score of 0 would make it better than each answer below, and worse than each above."""
    row = ranked(0.5, None, -1.0)
    for choose in ("best_worst", "best_against_rest", "all"):
        assert ids(row, choose) == ["0-2"]
    assert preference_pairs([row], "all", 0.0)[1] == [{"id": "r/1", "reason": "refused"}]
    assert preference_pairs([ranked(0.5, None)], "best_worst", 0.0) == ([], [{"id": "r/1", "reason": "refused"}])


def test_answers_are_told_apart_by_their_text_before_they_are_ranked() -> None:
    def sample(row: str, response: str, finish_reason: str = "stop") -> dict:
        return {"row_id": row, "prompt": PROMPT, "response": response, "finish_reason": finish_reason}

    samples = [
        sample("a", "x"),
        sample("b", "y"),
        sample("a", ""),
        sample("a", "z"),
        sample("b", "y"),
        sample("a", "x"),
        sample("b", "w", "length"),
    ]
    rows, left_out = distinct_answers(samples)
    assert rows == [{"id": "a", "prompt": PROMPT, "answers": ["x", "z"]}]
    assert left_out == {"empty": 1, "cut": 1, "repeated": 2, "prompts_without_two": 1}


def test_one_row_of_each_prompt() -> None:
    rows = [{"id": n} for n in range(4)]
    assert [row["id"] for row in one_row_per_prompt(rows, ["p", "q", "p", "r"], None)] == [0, 1, 3]
    assert [row["id"] for row in one_row_per_prompt(rows, ["p", "q", "p", "a"], 2)] == [0, 3]


@pytest.mark.parametrize("scores", [(3.0, 1.0, 2.0), (0.0, 0.0, 0.0, 1.0)])
def test_all_is_every_pair_once(scores: tuple[float, ...]) -> None:
    pairs, left_out = preference_pairs([ranked(*scores)], "all", 0.0)
    places = {frozenset(pair["id"][2:].split("-")) for pair in pairs + left_out}
    assert len(places) == len(pairs) + len(left_out) == len(scores) * (len(scores) - 1) / 2
    assert all(pair["chosen_score"] > pair["rejected_score"] for pair in pairs)


def test_candidates_that_would_all_be_one_answer_are_refused() -> None:
    """Else they are sampled and ranked for hours, and no pair comes of them."""
    content = read_yaml(ROOT / "presets" / "on-policy.yaml")["candidates"]
    top_1, alike = {**content["logits"], "top_k": 1}, {**content["logits"], "min_p": 1.0}
    assert Candidates(**content) and Candidates(**{**content, "temperature": 0.01, "logits": {**top_1, "top_k": 2}})
    assert Candidates(**{**content, "logits": {**alike, "min_p": 0.99}})
    for greedy, which in (
        ({"temperature": 1.0e-9}, r"temperature 1\.0e-09"),
        ({"logits": top_1}, r"logits\.top_k 1"),
        ({"logits": alike}, r"logits\.min_p 1\.0"),
        ({"logits": {**alike, "top_k": 1}}, r"logits\.top_k 1 and logits\.min_p 1\.0"),
    ):
        with pytest.raises(ValidationError, match=rf"greedy \({which}\), so that all 4 answers .* are one; raise temp"):
            Candidates(**{**content, **greedy})


def test_the_preset_is_the_default_but_for_its_pairs() -> None:
    """The win rates of the two then say what the pairs do, and TR-DPO's reference moves within its fewer steps."""
    default, preset = (load_file(ROOT / name) for name in ("params.yaml", "presets/on-policy.yaml"))
    changed = {"candidates", "pairs", "runs"}
    assert default.model_dump(exclude=changed) == preset.model_dump(exclude=changed)
    assert default.runs["dpo"] == preset.runs["dpo"]
    assert default.runs["epsilon_dpo"] == preset.runs["epsilon_dpo"]
    assert preset.runs["tr_dpo"]["sync_steps"] <= 37 / 2, "one epoch of its pairs has 37 steps"
