"""Pairs as batches, and the answers to other prompts that KTO takes its KL from."""

import tracemalloc

import pytest
import torch

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import write_jsonl
from epsilon_dpo.training.alignment.pair_data import PairCollator, PairData


def pairs_of(prompts):
    """One pair per prompt; each answer is recognisable: 100 + row (chosen), 200 + row (rejected)."""
    return [
        {"id": str(row), "prompt_ids": prompt, "chosen_ids": [100 + row, 2], "rejected_ids": [200 + row, 3, 2]}
        for row, prompt in enumerate(prompts)
    ]


PROMPTS = [[1, 5], [1, 6], [1, 5], [1, 7, 7], [1, 6], [1, 8], [1, 5]]


@pytest.mark.parametrize("seed", range(5))
def test_mismatched_answers_belong_to_other_prompts(seed):
    data = PairData(pairs_of(PROMPTS), mismatched_by=seed)
    donors = [int(row["mismatched_chosen_ids"][0]) - 100 for row in data.rows]
    assert sorted(donors) == list(range(len(PROMPTS)))
    assert all(PROMPTS[donor] != prompt for donor, prompt in zip(donors, PROMPTS, strict=True))
    assert [int(row["mismatched_rejected_ids"][0]) - 200 for row in data.rows] == donors


def test_mismatched_answers_depend_on_the_seed_alone():
    donors = lambda seed: [row["mismatched_chosen_ids"][0] for row in PairData(pairs_of(PROMPTS), seed).rows]  # noqa: E731
    assert donors(1) == donors(1) and len({tuple(donors(seed)) for seed in range(10)}) > 3


def test_no_row_becomes_longer_than_the_longest_pair():
    pairs = pairs_of([[1] * 9, [1, 2]])
    pairs[1]["chosen_ids"] = [7] * 10
    data = PairData(pairs, mismatched_by=0)
    assert len(data[0]["mismatched_chosen_ids"]) == 12 - 9


def test_a_batch_holds_the_mismatched_rows_beside_its_own():
    batch = PairCollator(0)([PairData(pairs_of([[1, 5], [1, 6]]), mismatched_by=0)[0]])
    assert batch["input_ids"].tolist() == [[1, 5, 100, 2, 0], [1, 5, 200, 3, 2]]
    assert batch["mismatched"]["input_ids"].tolist() == [[1, 5, 101, 2, 0], [1, 5, 201, 3, 2]]
    assert torch.equal(batch["mismatched"]["completion_mask"], batch["completion_mask"])
    assert "mismatched" not in PairCollator(0)([PairData(pairs_of([[1, 5]]))[0]])


def test_a_shared_prompt_stands_once_before_both_answers():
    pairs = PairData(pairs_of([[1, 5], [1, 6, 7]]), mismatched_by=0)
    batch = PairCollator(9, share_prompt=True)(pairs.rows)
    assert batch["input_ids"].tolist() == [[1, 5, 100, 2, 200, 3, 2, 9], [1, 6, 7, 101, 2, 201, 3, 2]]
    assert batch["attention_mask"].tolist() == [[1] * 7 + [0], [1] * 8]
    chosen, rejected = batch["completion_mask"].tolist()[:2], batch["completion_mask"].tolist()[2:]
    assert chosen == [[0, 0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0, 0, 0]]
    assert rejected == [[0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1, 1, 1]]
    assert batch["mismatched"]["input_ids"][0].tolist() == [1, 5, 101, 2, 201, 3, 2, 9]


@pytest.mark.parametrize("share_prompt", [False, True])
def test_the_length_of_a_pair_is_what_its_batch_has(share_prompt):
    collate, pair = PairCollator(0, share_prompt), pairs_of([[1, 5, 6]])[0]
    assert collate.length(pair) == collate([pair])["input_ids"].shape[1]
    pairs = pairs_of([[1, 5, 6], [1, 7]])
    pairs[1]["rejected_ids"] = [9] * 8
    mismatched = PairData(pairs, mismatched_by=0)[0]
    padded = collate([mismatched])["mismatched"]["input_ids"]
    assert collate.length(mismatched, "mismatched_") == padded.shape[1] > collate.length(mismatched)


def test_too_few_prompts_are_one_sentence(tmp_path):
    file = tmp_path / "train.jsonl"
    write_jsonl(file, pairs_of([[1, 5], [1, 5], [1, 6]]))
    with pytest.raises(UserError, match=r"train\.jsonl: 2 of 3 rows share one prompt, .*choose another method"):
        PairData.read(file, mismatched_by=0)
    assert len(PairData.read(file)) == 3


def test_flip_rates_are_kept_where_they_are_asked_for(tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    rows = [{**row, "flip_rate": rate} for row, rate in zip(pairs_of(PROMPTS[:3]), (0.05, 0.0, 0.3), strict=True)]
    write_jsonl(pairs, rows)
    batch = PairCollator(0)(PairData.read(pairs, flip_rates=True).rows)
    assert batch["flip_rates"].tolist() == [0.05, 0.0, 0.3] and batch["flip_rates"].dtype == torch.float64
    assert "flip_rates" not in PairCollator(0)(PairData.read(pairs).rows)
    write_jsonl(pairs, [rows[0], *pairs_of(PROMPTS[1:3])])
    with pytest.raises(UserError, match=r"2 of 3 pairs have no flip_rate, first .*label_smoothing in place of flip_by"):
        PairData.read(pairs, flip_rates=True)


SCORES = [{"id": str(row), "chosen_score": float(row), "rejected_score": -0.5} for row in range(3)]


def test_scores_are_joined_by_id_and_stand_in_the_order_of_the_rows(tmp_path):
    pairs, margins = tmp_path / "pairs.jsonl", tmp_path / "margins.jsonl"
    write_jsonl(pairs, pairs_of(PROMPTS[:3]))
    write_jsonl(margins, [SCORES[2], SCORES[0], {**SCORES[0], "id": "of no pair"}, SCORES[1]])
    batch = PairCollator(0)(PairData.read(pairs, margins=margins).rows)
    assert batch["scores"].tolist() == [0.0, 1.0, 2.0, -0.5, -0.5, -0.5]
    assert batch["scores"].dtype == torch.float64
    assert "scores" not in PairCollator(0)(PairData.read(pairs).rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"margins\.jsonl holds no scores, which this method needs; set margins: \{source: judge"),
        (None, r"margins\.jsonl holds no scores, which this method needs; set margins: \{source: judge"),
        (SCORES[:2], r"margins\.jsonl holds no scores of 1 of 3 pairs, first 2; run `dvc repro margins`"),
    ],
)
def test_a_pair_without_scores_is_refused(tmp_path, rows, message):
    pairs, margins = tmp_path / "pairs.jsonl", tmp_path / "margins.jsonl"
    write_jsonl(pairs, pairs_of(PROMPTS[:3]))
    if rows is not None:
        write_jsonl(margins, rows)
    with pytest.raises(UserError, match=message):
        PairData.read(pairs, margins=margins)


def test_reading_holds_ids_at_four_bytes_each_from_the_first_pair_on(tmp_path):
    """As lists, in which each id is an int of Python's, the 61,000 pairs of UltraFeedback would take 2.4 GB."""
    rows = [
        {
            "id": str(n),
            **{f"{side}_ids": [1000 * n + k for k in range(500)] for side in ("prompt", "chosen", "rejected")},
        }
        for n in range(200)
    ]
    write_jsonl(tmp_path / "train.jsonl", rows)
    tracemalloc.start()
    try:
        data = PairData.read(tmp_path / "train.jsonl")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(data) == 200 and data[7]["chosen_ids"].tolist() == rows[7]["chosen_ids"]
    assert peak < 8 * 200 * 1500
