"""The synthetic pairs: split by prompt, labelled by the true reward, and the same in every process."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.data.generated.truth import PROMPTS, TOPICS, true_reward
from epsilon_dpo.data.sources.generated import choice_probabilities, read_synthetic, split_prompts
from epsilon_dpo.data.sources.params import FetchView, SyntheticSource
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.params import parse, read_yaml

ROOT = Path(__file__).parents[3]


def source(**changes: Any) -> SyntheticSource:
    return SyntheticSource(
        **{"source": "synthetic", "train_pairs": 600, "eval_share": 0.5, "label_temperature": 1.0, **changes}
    )


def margin(row: dict[str, Any]) -> float:
    (chosen, rejected) = (
        true_reward(row[side][0]["content"], row[side][1]["content"]) for side in ("chosen", "rejected")
    )
    return chosen - rejected


def test_no_prompt_is_in_both_parts_and_every_topic_is_learnt() -> None:
    dataset = read_synthetic(source(), 17)
    train = {row["chosen"][0]["content"] for row in dataset.train}
    held_out = [row["chosen"][0]["content"] for row in dataset.eval]
    assert len(held_out) == len(set(held_out)) == 256
    assert not train & set(held_out)
    assert {PROMPTS[prompt] for prompt in train} == set(TOPICS)
    assert [row["id"] for row in dataset.train[:2]] == ["synthetic/train/0", "synthetic/train/1"]


def test_the_page_says_how_many_held_out_answers_stand_in_training() -> None:
    """Verbatim, in a pair of the same topic: of the default's chosen ones."""
    params = read_yaml(ROOT / "params.yaml")
    dataset = read_synthetic(parse(FetchView, {name: params[name] for name in ("seed", "fetch")}).fetch, params["seed"])
    known = {(topic_of(row), row[side][1]["content"]) for row in dataset.train for side in ("chosen", "rejected")}
    share = sum((topic_of(row), row["chosen"][1]["content"]) in known for row in dataset.eval) / len(dataset.eval)
    page = " ".join((ROOT / "docs/datasets.md").read_text("utf-8").split())
    assert f"all {len(TOPICS)} are in the training data, and {share:.0%}".replace("%", " %") in page


def topic_of(row: dict[str, Any]) -> str:
    return PROMPTS[row["chosen"][0]["content"]]


def test_sides_differ_and_share_their_prompt() -> None:
    for row in read_synthetic(source(), 17).train:
        assert row["chosen"][0] == row["rejected"][0]
        assert row["chosen"][1] != row["rejected"][1]
        assert [message["role"] for message in row["chosen"]] == ["user", "assistant"]


def test_labels_follow_the_true_reward() -> None:
    """At temperature 0 always; at 1 as a Bradley-Terry draw says: mean σ(|margin|), here about 0.79."""
    assert min(margin(row) for row in read_synthetic(source(label_temperature=0.0), 17).train) >= 0.0
    noisy = read_synthetic(source(train_pairs=3000), 17)
    assert 0.76 < noisy.facts["labels_agree_with_true_reward"]["train"] < 0.83
    random = read_synthetic(source(train_pairs=3000, label_temperature=1.0e9), 17)
    assert 0.46 < random.facts["labels_agree_with_true_reward"]["train"] < 0.54


@pytest.mark.parametrize(
    ("rewards", "temperature", "expected"),
    [
        ([1.0, 0.2, -0.5, 0.7], 1.0, [0.4143742542, 0.1861903544, 0.0924593937, 0.3069759977]),
        ([1.0, 0.2, -0.5, 0.7], 0.5, [0.5554027512, 0.1121338815, 0.0276518747, 0.3048114926]),
        ([1.5, 0.0], 1.0, [0.8175744762, 0.1824255238]),
        ([1.0, 3.0, 3.0], 0.0, [0.0, 0.5, 0.5]),
        ([1.0, 3.0], 1e-300, [0.0, 1.0]),
    ],
)
def test_the_best_is_chosen_by_a_softmax_of_the_rewards(
    rewards: list[float], temperature: float, expected: list[float]
) -> None:
    found = choice_probabilities(rewards, temperature)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-10) and sum(found) == pytest.approx(1.0, abs=1e-12)


def test_a_choice_is_the_best_against_each_of_the_others() -> None:
    choices: dict[str, list[dict[str, Any]]] = {}
    for row in read_synthetic(source(answers_per_prompt=4), 17).train:
        choices.setdefault(row["id"].rsplit("/", 1)[0], []).append(row)
    assert list(choices) == [f"synthetic/train/{number}" for number in range(200)]
    for pairs in choices.values():
        assert [row["id"].rsplit("/", 1)[1] for row in pairs] == ["0", "1", "2"]
        assert all(row["chosen"] == pairs[0]["chosen"] for row in pairs)
        answers = [row["rejected"] for row in pairs]
        assert len({answer[1]["content"] for answer in [pairs[0]["chosen"], *answers]}) == 4
        assert {answer[0]["content"] for answer in answers} == {pairs[0]["chosen"][0]["content"]}


def test_choices_follow_the_true_rewards() -> None:
    """At temperature 0 no other answer is better; at 1 the best one is chosen as often as the softmax says."""
    certain = read_synthetic(source(answers_per_prompt=4, label_temperature=0.0), 17)
    assert min(margin(row) for row in certain.train) >= 0.0
    rows = read_synthetic(source(answers_per_prompt=4, train_pairs=6000), 17).train
    best, expected, variance = 0, 0.0, 0.0
    for first in range(0, len(rows), 3):
        pairs = rows[first : first + 3]
        rewards = [0.0, *(-margin(row) for row in pairs)]  # of all four, less that of the chosen one
        chance = sum(
            p for p, reward in zip(choice_probabilities(rewards, 1.0), rewards, strict=True) if reward == max(rewards)
        )
        best, expected, variance = best + (max(rewards) == 0.0), expected + chance, variance + chance * (1.0 - chance)
    assert abs(best - expected) < 3.0 * variance**0.5
    assert 0.4 < best / 2000 < 0.8


def test_choices_are_of_training_prompts_alone() -> None:
    pairs, choices = read_synthetic(source(), 17), read_synthetic(source(answers_per_prompt=4), 17)
    assert choices.eval == pairs.eval and len(choices.train) == len(pairs.train) == 600


def test_the_length_of_one_part_does_not_change_the_other() -> None:
    short, long = read_synthetic(source(train_pairs=10), 17), read_synthetic(source(train_pairs=50), 17)
    assert long.train[:10] == short.train
    assert long.eval == short.eval
    assert read_synthetic(source(), 18).eval != long.eval


def test_the_same_rows_in_every_process() -> None:
    """Hash randomisation must not reach the rows: a set in the generator once changed the held-out prompts."""
    code = (
        "import hashlib; from epsilon_dpo.data.sources.generated import read_synthetic; "
        "from epsilon_dpo.data.sources.params import SyntheticSource; "
        "s = SyntheticSource(source='synthetic', train_pairs=50, eval_share=0.4, label_temperature=1.0); "
        "d = read_synthetic(s, 3); "
        "print(hashlib.sha256(repr((d.train, d.eval)).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("share", [0.0001, 0.97])
def test_a_share_that_leaves_a_part_or_a_topic_empty_is_refused(share: float) -> None:
    with pytest.raises(UserError, match="eval_share"):
        split_prompts(share, 17)
