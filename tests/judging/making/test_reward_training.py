"""A reward model trained on pairs: what it learns, its loss by hand, its bytes after a kill."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from test_pairrm_training import Killed, pairs, questions
from transformers import Gemma2Config, Gemma2ForCausalLM, set_seed

from epsilon_dpo.judging.judges.loading import load_judge
from epsilon_dpo.judging.judges.reward_model import RewardModel
from epsilon_dpo.judging.making.params import TrainedRewardJudge
from epsilon_dpo.judging.making.sources import build
from epsilon_dpo.models.base.embedded import train_tokenizer
from epsilon_dpo.models.base.model_folder import write_model
from epsilon_dpo.models.base.params import EmbeddedModel
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json
from epsilon_dpo.pipeline.stage.fingerprint import digest

SIZES = {
    "source": "embedded", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "initializer_range": 0.06,
    "max_position_embeddings": 64,
}  # fmt: skip
PARAMS = {
    "source": "trained_reward", "model": SIZES, "max_length": 64, "center_rewards_coefficient": 0.01,
    "learning_rate": 5e-3, "num_train_epochs": 1.0, "max_steps": 40, "batch_size": 16,
    "micro_batch_size": 16, "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "weight_decay": 0.0,
    "max_grad_norm": 1.0, "adam_beta2": 0.999, "bf16": False,
    "gradient_checkpointing": False,
}  # fmt: skip


def train_into(
    folder: Path, kill_at: int | None = None, scratch: Path | None = None, save_steps: int = 1000, **changes: object
) -> RewardModel:
    def track(metrics: dict[str, float], step: int) -> None:
        if step == kill_at:
            raise Killed

    set_seed(3)
    (folder / "out").mkdir(parents=True)
    params = TrainedRewardJudge(**{**PARAMS, **changes})
    judge = build(
        params, questions(pairs(320, 0)), 3, folder / "out", scratch or folder / "scratch", track, save_steps=save_steps
    )
    assert isinstance(judge, RewardModel)
    return judge


def test_it_learns_and_is_loaded_from_its_folder_alone(tmp_path: Path) -> None:
    trained = train_into(tmp_path)
    unseen = questions(pairs(100, 1))
    judge = load_judge(tmp_path / "out")
    verdicts = judge.compare(unseen)
    assert sum(verdict.logit > 0 for verdict in verdicts) / 100 > 0.9
    assert all(verdict.f_ba == -verdict.f_ab for verdict in verdicts)
    assert [verdict.logit for verdict in trained.compare(unseen)] == [verdict.logit for verdict in verdicts]
    rows = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 41))
    loss, accuracy = (sum(row[name] for row in rows[-5:]) / 5 for name in ("loss", "accuracy"))
    assert loss < 0.4 and accuracy > 0.9
    settings = read_json(tmp_path / "out/judge.json")
    assert (settings["kind"], settings["dtype"], settings["origin"]) == (
        "reward_model",
        "float32",
        "trained for 40 steps of 16 pairs, from 320 pairs",
    )
    assert not any(str(tmp_path).encode() in file.read_bytes() for file in (tmp_path / "out").iterdir())


def test_a_killed_training_ends_with_the_bytes_of_an_uninterrupted_one(tmp_path: Path) -> None:
    """However often each saves."""
    train_into(tmp_path / "uninterrupted")
    with pytest.raises(Killed):
        train_into(tmp_path / "killed", kill_at=25, scratch=tmp_path / "scratch", save_steps=13)
    assert (tmp_path / "scratch/checkpoint-13").is_dir()
    torch.manual_seed(99)
    train_into(tmp_path / "resumed", scratch=tmp_path / "scratch", save_steps=20)
    assert digest(tmp_path / "resumed/out") == digest(tmp_path / "uninterrupted/out")


@pytest.mark.slow
@pytest.mark.campaign  # by the launcher and the loop of tests/training/test_processes.py
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_train_as_one(tmp_path: Path, two_processes: Callable[[str], None], kind: str) -> None:
    """Also micro-batches that leave the last step of an epoch with fewer."""
    asked = {"batch_size": 48, "micro_batch_size": 10, "max_steps": None, "num_train_epochs": 1.0}
    one = train_into(tmp_path / "one", **asked)
    two_processes(kind)
    two = train_into(tmp_path / "two", **asked)
    questions_ = questions(pairs(40, 1))
    scores = [judge.rank([x.prompt for x in questions_], [[x.a, x.b] for x in questions_]) for judge in (one, two)]
    torch.testing.assert_close(torch.tensor(scores[0]), torch.tensor(scores[1]), rtol=0, atol=2e-3)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "out/metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert len(losses[0]) == 7 and losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_the_first_loss_is_that_of_the_stated_formula(tmp_path: Path) -> None:
    """At a learning rate of almost nothing: -log sigmoid of the difference, and the centring of the sums. Of 320 pairs,
    however many of them are computed at once, and so are the rewards beside it."""
    still = {"max_steps": 1, "warmup_ratio": 0.0, "learning_rate": 1e-12, "batch_size": 320, "micro_batch_size": 120}
    sizes = {**SIZES, "initializer_range": 0.5}
    judge = train_into(tmp_path, **still, model=sizes, center_rewards_coefficient=0.5)
    asked = questions(pairs(320, 0))
    rewards = torch.tensor(judge.rank([pair.prompt for pair in asked], [[pair.a, pair.b] for pair in asked]))
    assert rewards.std() > 0.05
    loss = -torch.nn.functional.logsigmoid(rewards[:, 0] - rewards[:, 1]) + 0.5 * rewards.sum(1).square()
    row = json.loads((tmp_path / "out/metrics.jsonl").read_text())
    assert row["loss"] == pytest.approx(loss.mean().item(), rel=1e-4)
    margins = rewards[:, 0] - rewards[:, 1]
    expected = {"margin": margins.mean(), "accuracy": (margins > 0.0).float().mean()}
    expected |= {"min_reward": rewards.min(), "mean_reward": rewards.mean(), "max_reward": rewards.max()}
    assert {name: row[name] for name in expected} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, abs=1e-4
    )


def test_it_can_start_from_a_pretrained_language_model(tmp_path: Path) -> None:
    """Its weights but for the language model's head, in float32; texts longer than max_length lose their start."""
    texts = [text for pair in pairs(320, 0) for text in pair]
    tokenizer = train_tokenizer([*texts, "user\n", "model\n"], EmbeddedModel(**SIZES))
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=64,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config).to(torch.bfloat16)
    write_model(model, tokenizer, tmp_path)
    tokenizer.save_pretrained(tmp_path / "model")
    source = {
        "source": "pretrained", "path": str(tmp_path / "model"), "revision": None, "dtype": "float32",
        "chat_template": "own", "stop_token": "<end_of_turn>",
    }  # fmt: skip
    with pytest.raises(UserError, match=r"judge\.max_length = 65 exceeds the 64 positions of the model; lower it"):
        train_into(tmp_path / "long", model=source, max_steps=1, warmup_ratio=0.0, max_length=65)
    judge = train_into(
        tmp_path / "judge", model=source, max_steps=1, warmup_ratio=0.0, learning_rate=1e-12, max_length=16
    )
    assert judge.model.dtype == torch.float32 and read_json(tmp_path / "judge/out/judge.json")["dtype"] == "float32"
    before, after = (part.model.embed_tokens.weight for part in (model, judge.model))
    torch.testing.assert_close(after.cpu(), before.float(), rtol=0, atol=1e-11)
    [verdict] = judge.compare(questions(pairs(1, 0)))
    assert verdict.trunc_source and len(judge.ids(questions(pairs(1, 0))[0].prompt, "yes")) == 16


def test_weights_that_keep_two_digits_are_refused() -> None:
    source = {
        "source": "pretrained", "path": "m", "revision": None, "dtype": "bfloat16", "chat_template": "own",
        "stop_token": "</s>",
    }  # fmt: skip
    with pytest.raises(ValidationError, match=r"model\.dtype: bfloat16 .* set it to float32"):
        TrainedRewardJudge(**{**PARAMS, "model": source})


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"max_length = 65 exceeds model.max_position_embeddings = 64"):
        TrainedRewardJudge(**{**PARAMS, "max_length": 65})
