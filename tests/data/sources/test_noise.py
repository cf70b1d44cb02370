"""Noise on generated labels: what it changes, how often, and that nothing of it is there unless it is asked for."""

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.data.generated.truth import true_reward
from epsilon_dpo.data.sources.dataset import Dataset
from epsilon_dpo.data.sources.generated import read_synthetic
from epsilon_dpo.data.sources.params import FetchView, SyntheticSource
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import write_jsonl
from epsilon_dpo.pipeline.stage.params import parse

# sha256 of the default's out/fetch (seed 17, 3,000 pairs) before labels could be noisy.
BEFORE = {
    "train": "af96c4e12d76ab0f69fd093e8d20bc46aac38f094407cf4944908aea613d78c2",
    "eval": "86f4fb8fcecccab55f8ee1774d4e96997e7be3fb62d9787d2c623904b89cddfa",
}
BLOCK = {"source": "synthetic", "train_pairs": 3000, "eval_share": 0.5, "label_temperature": 1.0}


def drawn(seed: int = 17, **changes: Any) -> Dataset:
    return read_synthetic(SyntheticSource.model_validate(BLOCK | changes), seed)


def flipping(rate: float) -> dict[str, Any]:
    return {"annotators": [{"share": 1.0, "flip": rate}]}


def sides(row: dict[str, Any]) -> set[str]:
    return {row[side][1]["content"] for side in ("chosen", "rejected")}


def chosen(dataset: Dataset) -> list[str]:
    return [row["chosen"][1]["content"] for row in dataset.train]


@pytest.mark.parametrize("off", [{}, {"annotators": None, "outliers": 0.0, "answers_per_prompt": 2}], ids=["", "said"])
def test_without_noise_no_byte_changes(tmp_path: Path, off: dict[str, Any]) -> None:
    dataset = drawn(**off)
    for split, expected in BEFORE.items():
        file = tmp_path / f"{split}.jsonl"
        write_jsonl(file, getattr(dataset, split))
        assert hashlib.sha256(file.read_bytes()).hexdigest() == expected, split
    assert set(dataset.facts) == {"source", "seed", "files", "true_reward", "prompts", "labels_agree_with_true_reward"}


def test_noise_changes_labels_of_training_pairs_and_nothing_else() -> None:
    clean, noisy = drawn(), drawn(**flipping(0.3))
    for before, after in zip(clean.train, noisy.train, strict=True):
        assert after["id"] == before["id"] and after["chosen"][0] == before["chosen"][0]
        assert sides(after) == sides(before)
        assert after["clean"] == (after["chosen"] == before["chosen"])
        assert set(after) - set(before) == {"annotator", "clean", "flip_rate"}
    for before, after in zip(clean.eval, noisy.eval, strict=True):
        assert after == {**before, "flip_rate": 0.0, "clean": True}


def test_a_higher_rate_turns_over_what_a_lower_one_does_and_more() -> None:
    low, high = (
        {row["id"] for row in drawn(**flipping(rate), train_pairs=600).train if not row["clean"]} for rate in (0.1, 0.3)
    )
    assert low < high
    short, long = (drawn(**flipping(0.3), train_pairs=pairs) for pairs in (50, 100))
    assert long.train[:50] == short.train
    assert chosen(drawn(**flipping(0.0), train_pairs=600)) == chosen(drawn(train_pairs=600))


@pytest.mark.parametrize("seed", [17, 18])
@pytest.mark.parametrize(
    ("noise", "rate"),
    [
        (flipping(0.3), 0.3),
        (flipping(0.45), 0.45),
        ({"outliers": 0.3}, 0.15),
        ({**flipping(0.1), "outliers": 0.2}, 0.8 * 0.1 + 0.1),
    ],
    ids=["flip .3", "flip .45", "outliers", "both"],
)
def test_the_agreement_with_the_truth_falls_as_the_model_of_flips_says(
    seed: int, noise: dict[str, Any], rate: float
) -> None:
    """To (1 - e) a + e (1 - a), within three standard errors of the flips that were drawn."""
    before, noisy = drawn(seed), drawn(seed, **noise)
    agreement = before.facts["labels_agree_with_true_reward"]["train"]
    expected = (1.0 - rate) * agreement + rate * (1.0 - agreement)
    decided = sum(
        len({true_reward(row["chosen"][0]["content"], side) for side in sides(row)}) == 2 for row in before.train
    )
    error = math.sqrt(rate * (1.0 - rate) / decided)
    found = noisy.facts["labels_agree_with_true_reward"]
    assert abs(found["train"] - expected) < 3.0 * error < agreement - expected
    assert found["eval"] == before.facts["labels_agree_with_true_reward"]["eval"]
    assert noisy.facts["flip_rate"] == pytest.approx(rate)
    flipped = sum(not row["clean"] for row in noisy.train) / len(noisy.train)
    assert noisy.facts["labels_flipped"] == round(flipped, 4)
    assert abs(flipped - rate) < 3.0 * math.sqrt(rate * (1.0 - rate) / len(noisy.train))


def test_each_annotator_flips_at_its_own_rate() -> None:
    flips = {0: 0.05, 1: 0.3, 2: 0.0}
    shares = {0: 0.25, 1: 0.25, 2: 0.5}
    annotators = [{"share": shares[one], "flip": flips[one]} for one in flips]
    dataset = drawn(annotators=annotators, outliers=0.2)
    rows = list(dataset.train)
    # Over all labels: 0.8 (0.25 * 0.05 + 0.25 * 0.3 + 0.5 * 0.0) + 0.2 / 2, where the three rates alone average 0.1933.
    assert dataset.facts["flip_rate"] == pytest.approx(0.17)
    for one, flip in flips.items():
        own, rate = [row for row in rows if row["annotator"] == one], 0.8 * flip + 0.1
        assert abs(len(own) / len(rows) - shares[one]) < 3.0 * math.sqrt(shares[one] * (1.0 - shares[one]) / len(rows))
        assert [row["flip_rate"] for row in own] == pytest.approx([rate] * len(own))
        flipped = sum(not row["clean"] for row in own) / len(own)
        assert abs(flipped - rate) < 3.0 * math.sqrt(rate * (1.0 - rate) / len(own))


def test_outliers_alone_have_no_annotator() -> None:
    assert all(set(row) == {"id", "chosen", "rejected", "flip_rate", "clean"} for row in drawn(outliers=0.2).train)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"annotators": []}, r"fetch\.annotators"),
        ({"annotators": [{"share": 0.5, "flip": 0.1}]}, "the shares of annotators sum to 0.5, not to 1"),
        (flipping(0.5), "should be less than 0.5"),
        ({"annotators": [{"share": 1.0, "accuracy": 0.9}]}, "unknown key"),
        ({"outliers": 1.0}, "should be less than 1"),
        ({"answers_per_prompt": 1}, "greater than or equal to 2"),
        ({"answers_per_prompt": 8}, "makes 7 pairs, and train_pairs is no multiple of that; choose 2996"),
        ({"answers_per_prompt": 4, "outliers": 0.1}, "noise is of labels of two answers"),
        ({"answers_per_prompt": 4, **flipping(0.0)}, "noise is of labels of two answers"),
    ],
)
def test_a_block_that_makes_no_sense_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        parse(FetchView, {"seed": 17, "fetch": BLOCK | changes})
    assert "\n" not in str(error.value)
