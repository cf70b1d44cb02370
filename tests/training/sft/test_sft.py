"""SFT through stage sft's call: the ids it trains on, what it writes, and what a kill must not change."""

import json
import math
import multiprocessing
import os
import signal

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralConfig, MixtralForCausalLM

from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.models.policy.folder import load_policy
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl, write_jsonl
from epsilon_dpo.training.sft.params import SFT
from epsilon_dpo.training.sft.sft import fine_tune, labelled

TOKENS = Tokens(max_prompt_length=8, max_length=12)
# A template as Gemma's: BOS, a token for the role, the text, the stop token, and something after it.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %} {{ 'w1' if m['role'] == 'user' else 'w2' }} {{ m['content'] }} "
    "{{ eos_token }} w3{% endfor %}{% if add_generation_prompt %} w2{% endif %}"
)


def pair(row, prompt="w5 w6", chosen="w7 w8 w9"):
    answer = lambda text: [{"role": "assistant", "content": text}]  # noqa: E731
    prompt_messages = [{"role": "user", "content": prompt}]
    return {"id": f"row/{row}", "prompt": prompt_messages, "chosen": answer(chosen), "rejected": answer("w4")}


@pytest.fixture
def base(sft_folder, tmp_path):
    """A folder as stage base writes it."""
    folder = sft_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "base" / "tokenizer")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.generation_config.eos_token_id = [1, 2]
    model.save_pretrained(tmp_path / "base" / "model")
    return tmp_path / "base"


@pytest.fixture
def run(base, tmp_path):
    """Fine-tune on 10 pairs with answers of unequal length into a folder of the given name."""
    validated = tmp_path / "validated"
    validated.mkdir()
    words = lambda row: " ".join(f"w{4 + (row * 7 + n) % 50}" for n in range(1 + row % 5))  # noqa: E731
    write_jsonl(validated / "train.jsonl", [pair(row, chosen=words(row)) for row in range(10)])
    write_jsonl(validated / "eval.jsonl", [pair(row, chosen=words(row)) for row in range(10, 13)])

    def call(name, track=lambda metrics, step: None, save_steps=2, **changes):
        config = {
            "completion_only_loss": True,
            "learning_rate": 1e-2,
            "num_train_epochs": 2.0,
            "max_steps": None,
            "batch_size": 4,
            "micro_batch_size": 2,
            "lr_scheduler_type": "cosine",
            "warmup_ratio": 0.0,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "adam_beta2": 0.95,
            "bf16": False,
            "gradient_checkpointing": False,
            "lora": None,
        }
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        settings, scratch = SFT(**{**config, **changes}), tmp_path / f"{name}-scratch"
        fine_tune(settings, TOKENS, 5, base, validated, out, scratch, track, save_steps=save_steps)
        return out

    return call


def test_labels_are_the_answer_with_its_stop_token(base):
    tokenizer = AutoTokenizer.from_pretrained(base / "tokenizer")
    ids = lambda text: tokenizer.convert_tokens_to_ids(text.split())  # noqa: E731
    prompt, answer = ids("<bos> w1 w5 w6 <end_of_turn> w3 w2"), ids("w7 w8 w9 <end_of_turn>")
    (row,) = labelled([pair(0)], tokenizer, TOKENS, completion_only=True)
    assert row["input_ids"] == prompt + answer and row["labels"] == [-100] * 7 + answer
    (row,) = labelled([pair(0, chosen="w7 " * 20)], tokenizer, TOKENS, completion_only=False)
    assert row["labels"] == row["input_ids"] == prompt + ids("w7 " * 5)


def means_over_tokens(folder, rows, tokenizer, completion_only):
    """Of the answers' tokens, or of all but the first, by the logits of the model in `folder`: loss, entropy, and the
    share of the likeliest."""
    model, found = AutoModelForCausalLM.from_pretrained(folder).eval(), []
    for row in labelled(rows, tokenizer, TOKENS, completion_only):
        ids, scored = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])[1:] != -100
        with torch.no_grad():
            scores = model(ids[None]).logits[0, :-1].log_softmax(-1)
        losses = -scores.gather(1, ids[1:, None])[:, 0]
        entropies, hits = -(scores.exp() * scores).sum(1), (scores.argmax(1) == ids[1:]).float()
        found += torch.stack([losses, entropies, hits], dim=1)[scored].tolist()
    return [sum(column) / len(found) for column in zip(*found, strict=True)]


@pytest.mark.parametrize("completion_only", [True, False])
def test_loss_and_evaluation_are_those_of_the_models_own_logits(run, base, tmp_path, completion_only):
    """The first row, before any step, of a batch of all ten rows, each a micro-batch; then the evaluation, of three
    answers of 2, 3 and 4 tokens: means over tokens, and neither over answers nor over micro-batches."""
    settings = {"max_steps": 1, "warmup_ratio": 0.0, "batch_size": 10, "micro_batch_size": 1}
    out = run("plain", completion_only_loss=completion_only, **settings)
    tokenizer = AutoTokenizer.from_pretrained(base / "tokenizer")
    train, evaluation = (read_jsonl(tmp_path / "validated" / f"{split}.jsonl") for split in ("train", "eval"))
    names, row = ("loss", "entropy", "mean_token_accuracy"), read_jsonl(out / "metrics.jsonl")[0]
    expected = means_over_tokens(base / "model", train, tokenizer, completion_only)
    assert [row[name] for name in names] == pytest.approx(expected, rel=1e-4)
    expected = means_over_tokens(out / "model", evaluation, tokenizer, completion_only)
    metrics = read_json(out / "metrics.json")
    assert [metrics[f"eval_{name}"] for name in names] == pytest.approx(expected, rel=1e-4)


def test_it_learns_and_writes_a_policy_that_stops_at_the_stop_token(run):
    out = run("policy", num_train_epochs=20.0)
    rows, metrics = read_jsonl(out / "metrics.jsonl"), read_json(out / "metrics.json")
    assert [row["step"] for row in rows] == list(range(1, 61)) and metrics["steps"] == 60
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"] and math.isfinite(metrics["eval_loss"])
    assert metrics["train_loss"] == pytest.approx(sum(row["loss"] for row in rows) / 60), "as in TRL, of all steps"
    assert read_json(out / "model" / "generation_config.json")["eos_token_id"] == 2
    assert AutoTokenizer.from_pretrained(out / "model").chat_template == TEMPLATE
    assert read_json(out / "model" / "config.json")["use_cache"] is True
    assert not (out / "model" / "training_args.bin").exists()


def test_a_killed_training_resumes_to_the_same_bytes(run, tmp_path):
    """However often each of them saves."""
    uninterrupted = run("uninterrupted", save_steps=1000)
    die = lambda metrics, step: os.kill(os.getpid(), signal.SIGKILL) if step == 5 else None  # noqa: E731
    child = multiprocessing.get_context("fork").Process(target=run, args=("resumed", die))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL and (tmp_path / "resumed-scratch" / "checkpoint-4").exists()
    resumed = run("resumed", save_steps=5)
    assert sorted(path.name for path in (tmp_path / "resumed-scratch").glob("c*")) == ["checkpoint-4", "checkpoint-5"]
    files = sorted(file.relative_to(uninterrupted) for file in uninterrupted.rglob("*") if file.is_file())
    assert len(files) > 5 and files == sorted(f.relative_to(resumed) for f in resumed.rglob("*") if f.is_file())
    for file in files:
        assert (uninterrupted / file).read_bytes() == (resumed / file).read_bytes(), file


def test_more_tokens_than_positions_are_refused_before_a_step(run, base, tmp_path):
    config = read_json(base / "model" / "config.json")
    (base / "model" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 11}))
    with pytest.raises(UserError, match=r"tokens\.max_length = 12 exceeds the 11 positions of the model; lower it"):
        run("short")
    assert not (tmp_path / "short" / "model").exists()


def test_a_training_whose_only_step_is_its_warm_up_is_refused(run):
    """Its learning rate is 0, and the policy would be the model that it began as."""
    with pytest.raises(UserError, match="has one optimizer step, and its warm-up gives the first a learning rate of 0"):
        run("one", max_steps=1, warmup_ratio=0.1)


def test_a_mixture_of_experts_is_trained_on_its_tokens_and_answers(run, base):
    """A router's loss of balance depended on how a step is cut, and the flag that asks for it made decoding fail."""
    mixture = MixtralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4, max_position_embeddings=32, output_router_logits=True,
        router_aux_loss_coef=1.0, pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    MixtralForCausalLM(mixture).save_pretrained(base / "model")
    losses = []
    for size in (8, 1):
        folder = run(f"in {size}", batch_size=8, micro_batch_size=size, max_steps=1, warmup_ratio=0.0)
        losses.append(read_jsonl(folder / "metrics.jsonl")[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    model = load_policy(folder / "model")
    assert model.config.router_aux_loss_coef == 1.0
    prompts = {
        "input_ids": torch.tensor([[5, 6, 7], [0, 8, 9]]),
        "attention_mask": torch.tensor([[1, 1, 1], [0, 1, 1]]),
    }
    assert model.generate(**prompts, max_new_tokens=3, do_sample=False).shape == (2, 6)
