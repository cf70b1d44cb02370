"""The synthetic pairs: split by prompt, labelled by the true reward, and the same in every process."""

import os
import subprocess
import sys
from typing import Any

import pytest

from epsilon_dpo.data.generated.truth import PROMPTS, TOPICS, true_reward
from epsilon_dpo.data.sources.generated import read_synthetic, split_prompts
from epsilon_dpo.data.sources.params import SyntheticSource
from epsilon_dpo.pipeline.observability.errors import UserError


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
