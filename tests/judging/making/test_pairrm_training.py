import inspect
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import set_seed

from epsilon_dpo.judging.judges.interface import Question
from epsilon_dpo.judging.judges.layout import Pair
from epsilon_dpo.judging.judges.pairrm_judge import PairRMJudge
from epsilon_dpo.judging.making.pairrm_training import train
from epsilon_dpo.judging.making.params import TrainedJudge
from epsilon_dpo.judging.making.sources import build
from epsilon_dpo.judging.making.training_examples import draw_examples
from epsilon_dpo.pipeline.stage.files import read_json
from epsilon_dpo.pipeline.stage.fingerprint import digest

PARAMS = TrainedJudge(
    source="trained", vocab_size=150, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
    position_buckets=8, initializer_range=0.06, dropout=0.1, source_max_length=12, candidate_max_length=12,
    learning_rate=5e-3, num_train_epochs=1.0, max_steps=40,
    batch_size=16, micro_batch_size=16, lr_scheduler_type="cosine", warmup_ratio=0.1,
    weight_decay=0.0, max_grad_norm=1.0, adam_beta2=0.999,
    mismatched_first=0.0, mismatched_share=0.2,
)  # fmt: skip


def pairs(count: int, seed: int) -> list[Pair]:
    """The better answer is the friendly one, whatever it says about the rest."""
    rng = random.Random(seed)
    colours = ["red", "blue", "green", "black"]
    found = []
    for _ in range(count):
        asked, said, other = (rng.choice(colours) for _ in range(3))
        found.append(Pair(f"is it {asked}?", f"gladly, it is {said}.", f"nonsense, it is {other}."))
    return found


def questions(pairs: list[Pair]) -> list[Question]:
    return [Question([{"role": "user", "content": pair.source}], pair.a, pair.b) for pair in pairs]


class Killed(Exception):
    pass


def train_into(folder: Path, scratch: Path, kill_at: int | None = None, save_steps: int = 1000) -> PairRMJudge:
    def track(metrics: dict[str, float], step: int) -> None:
        if step == kill_at:
            raise Killed

    set_seed(3)
    folder.mkdir()
    judge = build(PARAMS, questions(pairs(320, 0)), 3, folder, scratch, track, save_steps=save_steps)
    assert isinstance(judge, PairRMJudge)
    return judge


def test_learns_what_makes_an_answer_better_in_both_places(tmp_path: Path) -> None:
    judge = train_into(tmp_path / "out", tmp_path / "scratch")
    unseen = pairs(100, 1)
    verdicts = judge.compare_texts(unseen) + judge.compare_texts([Pair(p.source, p.b, p.a) for p in unseen])
    right = [verdict.logit > 0 for verdict in verdicts[:100]] + [verdict.logit < 0 for verdict in verdicts[100:]]
    assert sum(right) / 200 > 0.9
    rows = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 41))
    assert rows[0]["loss"] == pytest.approx(0.693, abs=0.1) and sum(row["loss"] for row in rows[-5:]) / 5 < 0.4


@pytest.mark.parametrize(
    ("max_steps", "steps", "origin"),
    [(None, 5, "trained on 70 pairs"), (2, 2, "trained for 2 steps of 16 pairs, from 70 pairs")],
)
def test_its_origin_says_how_many_pairs_it_may_have_seen(
    tmp_path: Path, max_steps: int | None, steps: int, origin: str
) -> None:
    """An epoch of 70 pairs is five steps of 16, the last one filled up from the next epoch."""
    (tmp_path / "out").mkdir()
    params = PARAMS.model_copy(update={"max_steps": max_steps})
    asked, scratch = questions(pairs(70, 0)), tmp_path / "scratch"
    build(params, asked, 3, tmp_path / "out", scratch, lambda *_: None, save_steps=1000)
    assert read_json(tmp_path / "out/judge.json")["origin"] == origin
    assert len((tmp_path / "out/metrics.jsonl").read_text().splitlines()) == steps


def test_a_killed_training_ends_with_the_bytes_of_an_uninterrupted_one(tmp_path: Path) -> None:
    """However often each saves."""
    train_into(tmp_path / "uninterrupted", tmp_path / "scratch_of_uninterrupted")
    with pytest.raises(Killed):
        train_into(tmp_path / "killed", tmp_path / "scratch", kill_at=25, save_steps=13)
    assert (tmp_path / "scratch/checkpoint-13").is_dir()
    torch.manual_seed(99)
    train_into(tmp_path / "resumed", tmp_path / "scratch", save_steps=20)
    assert digest(tmp_path / "resumed") == digest(tmp_path / "uninterrupted")


def test_the_first_loss_is_that_of_the_stated_formula(tmp_path: Path) -> None:
    """-log sigmoid(f(better, worse)) of one step with no change: a learning rate of almost nothing, no dropout. Of 64
    pairs, however many of them are computed at once."""
    params = PARAMS.model_copy(update={"max_steps": 1, "warmup_ratio": 0.0, "learning_rate": 1e-12, "dropout": 0.0})
    params = params.model_copy(update={"batch_size": 64, "micro_batch_size": 24, "initializer_range": 0.3})
    rows: list[dict[str, float]] = []
    asked = questions(pairs(64, 0))
    model, layout = train(asked, params, 0, tmp_path, tmp_path / "metrics.jsonl", lambda row, _: rows.append(row), 1000)
    examples = draw_examples(asked, 64, params.mismatched_first, params.mismatched_share, 0)
    verdicts = PairRMJudge(model, layout, 64).compare([example.question(asked) for example in examples])
    first = torch.tensor([[verdict.f_ab, -verdict.f_ba] for verdict in verdicts]).sigmoid().log().neg()
    better_first = torch.tensor([example.better_first for example in examples])
    assert 16 < better_first.sum() < 48 and 4 < sum(example.other is not None for example in examples) < 32
    assert rows[0]["loss"] == pytest.approx(torch.where(better_first, first[:, 0], first[:, 1]).mean().item(), rel=1e-4)


def a_tokenizer() -> str:
    """Its sha256. Another process reads this function alone, so it imports what it needs."""
    import hashlib
    import random

    from epsilon_dpo.judging.making.small_pairrm import small_tokenizer

    rng = random.Random(0)
    made_up = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 7))) for _ in range(300)]
    texts = [" ".join(rng.choices(made_up, k=12)) for _ in range(400)]
    return hashlib.sha256(small_tokenizer(texts, 400).backend_tokenizer.to_str().encode()).hexdigest()


@pytest.mark.slow
def test_the_tokenizer_is_the_same_in_every_process(other_order: dict[str, str]) -> None:
    """Also where sets are in another order."""
    program = f"{inspect.getsource(a_tokenizer)}\nprint(a_tokenizer())"
    there = subprocess.run([sys.executable, "-c", program], env=other_order, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == a_tokenizer()


def test_mismatched_pairs_teach_which_answer_belongs_to_the_question(tmp_path: Path) -> None:
    """Answers to unseen prompts about known things; a judge that reads the answers alone is right half of the time.

    Without mismatched pairs it is: chosen and rejected answers name the same thing.
    """
    things = ["gold", "salt", "iron", "bees", "mars", "rome", "bats", "owls", "ice", "tea", "rain", "sand"]
    seen = ["Tell me about {}.", "What is {}?", "Do you know {}?", "{}, please!"]
    asked = [
        Question([{"role": "user", "content": form.format(thing)}], f"Gladly! {thing.title()} is fine.", f"{thing}. No")
        for thing in things
        for form in seen
        for _ in range(5)
    ]
    changes = {"hidden_size": 32, "num_hidden_layers": 2, "dropout": 0.0, "initializer_range": 0.15, "max_steps": 300}
    params = PARAMS.model_copy(update={**changes, "learning_rate": 3e-3, "mismatched_first": 0.8})
    params = params.model_copy(update={"batch_size": 32, "micro_batch_size": 32})
    (tmp_path / "out").mkdir()
    judge = build(params, asked, 3, tmp_path / "out", tmp_path / "scratch", lambda *_: None, save_steps=1000)
    told = [f"Gladly! {thing.title()} is fine." for thing in things]
    unseen = [
        Question([{"role": "user", "content": f"Is {thing} known?"}], own, other)
        for thing, own in zip(things, told, strict=True)
        for other in told
        if own != other
    ]
    assert sum(verdict.logit > 0 for verdict in judge.compare(unseen)) / len(unseen) > 0.9
