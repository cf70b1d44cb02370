"""The trainer through stage align's call: what must be equal, and what a kill must not change."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from epsilon_dpo import trainer as trainer_module
from epsilon_dpo.alignment import align
from epsilon_dpo.checkpoints import last_whole_checkpoint
from epsilon_dpo.errors import UserError
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.outputs import read_json, read_jsonl, write_json, write_jsonl
from epsilon_dpo.pair_data import PairData
from epsilon_dpo.pair_metrics import Totals
from epsilon_dpo.params.align import Align

DPO = {"method": "dpo", "beta": 0.3}
EPSILON_DPO = {"method": "epsilon_dpo", "beta": 0.3, "epsilon": 0.05}
SOFT = {"method": "tr_dpo", "beta": 0.3, "update": "soft", "alpha": 0.6, "sync_steps": 3}
HARD = {"method": "tr_dpo", "beta": 0.3, "update": "hard", "sync_steps": 3}
RUNS = {"dpo": DPO, "epsilon_dpo": EPSILON_DPO, "tr_dpo_soft": SOFT, "tr_dpo_hard": HARD}


def numbers(**changes):
    """22 pairs: 11 micro-batches of 2, so 6 optimizer steps an epoch of which the last has one micro-batch only."""
    chosen = {
        "learning_rate": 1e-3,
        "num_train_epochs": 2.0,
        "max_steps": None,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "adam_beta2": 0.999,
        "logging_steps": 1,
        "save_steps": 4,
        "bf16": False,
        "gradient_checkpointing": False,
        "logps_token_chunk": 16,
    }
    return Align(**{**chosen, **changes})


@pytest.fixture
def run(sft_folder, token_pairs, tmp_path):
    """Align with a run's entry and changed training numbers into a folder of the given name; returns the folder."""
    made = {}

    def call(name, entry, track=lambda metrics, step: None, dtype=torch.float32, count=22, **changes):
        if not made:
            made["model"], made["pairs"] = sft_folder(dtype), tmp_path / "pairs"
            made["pairs"].mkdir()
            write_jsonl(made["pairs"] / "train.jsonl", token_pairs(count))
            write_jsonl(made["pairs"] / "eval.jsonl", token_pairs(count + 5)[count:])
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        torch.set_num_threads(1)
        method, settings, scratch = method_of(name, entry), numbers(**changes), tmp_path / f"{name}-scratch"
        align(method, settings, 5, made["model"], made["pairs"], out, scratch, track)
        return out

    return call


def content(folder):
    """Every byte of a result."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def test_the_result_is_whole_and_the_same_twice(run):
    rows = []
    first = run("first", EPSILON_DPO, track=lambda metrics, step: rows.append({"step": step, **metrics}))
    assert content(first) == content(run("second", EPSILON_DPO))
    assert {"model/model.safetensors", "model/tokenizer.json", "metrics.jsonl", "metrics.json"} <= content(first).keys()
    assert read_json(first / "model" / "generation_config.json")["eos_token_id"] == 2
    stream = read_jsonl(first / "metrics.jsonl")
    assert [row["step"] for row in stream] == list(range(1, 13)) and rows[:-1] == stream
    metrics = read_json(first / "metrics.json")
    assert metrics["steps"] == 12 and metrics["beta"] == stream[-1]["eps/beta_next"]
    assert rows[-1]["eval_loss"] == metrics["eval_loss"]


def test_the_first_step_is_an_exact_tie(run):
    row = read_jsonl(run("tie", EPSILON_DPO, max_steps=1) / "metrics.jsonl")[0]
    assert row["loss"] == pytest.approx(0.6931471805599453, rel=1e-7)
    assert row["eps/none_ratio"] == 1.0 and row["eps/beta_next"] == 0.3
    assert row["margins_raw"] == row["kl/fwd_data"] == row["eps/mean_abs"] == 0.0


def test_logged_numbers_are_those_of_the_models_own_logits(run, tmp_path, token_pairs):
    """One step over all pairs, then another: the first row, and the evaluation, from full logits in float64."""
    settings = {"max_steps": 2, "per_device_train_batch_size": 8, "count": 16, "warmup_ratio": 0.0}
    folder = run("plain", DPO, dtype=torch.float64, **settings)
    row, metrics = read_jsonl(folder / "metrics.jsonl")[0], read_json(folder / "metrics.json")
    load = lambda path: AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()  # noqa: E731
    before, after = load(tmp_path / "sft"), load(folder / "model")

    def logp(model, pair, side):
        ids = torch.tensor([pair["prompt_ids"] + pair[side]])
        with torch.no_grad():
            scores = model(ids).logits[0, :-1].log_softmax(-1)
        return scores.gather(1, ids[0, 1:, None])[len(pair["prompt_ids"]) - 1 :].sum().item()

    train, evaluation = token_pairs(16), token_pairs(21)[16:]
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    assert row["logps/chosen"] == pytest.approx(mean([logp(before, pair, "chosen_ids") for pair in train]), rel=1e-10)
    assert row["logps/rejected"] == pytest.approx(mean([logp(before, p, "rejected_ids") for p in train]), rel=1e-10)
    assert row["tokens/chosen"] == mean([len(pair["chosen_ids"]) for pair in train])
    ratios = [
        [logp(after, pair, side) - logp(before, pair, side) for side in ("chosen_ids", "rejected_ids")]
        for pair in evaluation
    ]
    assert max(abs(h) for pair in ratios for h in pair) > 1e-2  # the step did move the policy
    margins = [0.3 * (chosen - rejected) for chosen, rejected in ratios]
    assert metrics["eval_rewards/margins"] == pytest.approx(mean(margins), rel=1e-9)
    assert metrics["eval_rewards/accuracies"] == mean([margin > 0 for margin in margins])
    assert metrics["eval_loss"] == pytest.approx(
        -torch.tensor(margins).double().sigmoid().log().mean().item(), rel=1e-9
    )


def test_accumulation_is_a_larger_batch(run):
    """20 pairs: batch 2 x accumulation 2 = batch 4, for every beta exactly and for the weights up to rounding."""
    settings = {"dtype": torch.float64, "count": 20}
    parts = run("parts", EPSILON_DPO, per_device_train_batch_size=2, gradient_accumulation_steps=2, **settings)
    whole = run("whole", EPSILON_DPO, per_device_train_batch_size=4, gradient_accumulation_steps=1, **settings)
    betas = [[row["eps/beta_next"] for row in read_jsonl(folder / "metrics.jsonl")] for folder in (parts, whole)]
    assert betas[0] == betas[1] and len(set(betas[0])) > 3
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=1e-8)


def test_a_short_last_window_is_averaged_over_what_it_holds(run):
    """6 pairs: 3 micro-batches where 4 are allowed must be one step over 6 pairs."""
    settings = {"dtype": torch.float64, "count": 6, "num_train_epochs": 1.0}
    short = run("short", DPO, per_device_train_batch_size=2, gradient_accumulation_steps=4, **settings)
    whole = run("whole", DPO, per_device_train_batch_size=6, gradient_accumulation_steps=1, **settings)
    torch.testing.assert_close(weights(short), weights(whole), rtol=0, atol=1e-9)


def test_a_reference_that_never_moves_is_dpo(run):
    never = run("never", {**SOFT, "sync_steps": 1000})
    assert torch.equal(weights(never)["model.norm.weight"], weights(run("dpo", DPO))["model.norm.weight"])
    moved = weights(run("moved", SOFT))["model.norm.weight"]
    assert not torch.equal(moved, weights(never)["model.norm.weight"])


def test_after_a_hard_sync_the_loss_is_log_two_again(run):
    losses = [row["loss"] for row in read_jsonl(run("hard", HARD, warmup_ratio=0.0) / "metrics.jsonl")]
    tied = [step for step, loss in enumerate(losses, start=1) if loss == pytest.approx(0.6931471805599453, abs=1e-7)]
    assert tied == [1, 4, 7, 10]


def test_gradient_checkpointing_and_bfloat16_autocast_run(run):
    plain = read_jsonl(run("plain", EPSILON_DPO) / "metrics.jsonl")
    thrifty = read_jsonl(run("thrifty", EPSILON_DPO, gradient_checkpointing=True) / "metrics.jsonl")
    assert thrifty == plain
    half = read_jsonl(run("half", EPSILON_DPO, bf16=True) / "metrics.jsonl")
    assert half[0]["eps/none_ratio"] == 1.0 and half[-1]["loss"] == pytest.approx(plain[-1]["loss"], rel=0.1)


KILLS = ["after_logging_step_7", "inside_the_window_of_step_8", "while_saving_step_8"]


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def killed(run, kill, entry):
    """In a child process: train as `run` does and be killed at `kill`."""
    track = lambda metrics, step: None  # noqa: E731
    if kill == "after_logging_step_7":
        track = lambda metrics, step: die() if step == 7 else None  # noqa: E731
    elif kill == "inside_the_window_of_step_8":
        # 11 micro-batches for steps 1 to 6, two for step 7, one for step 8: the 15th call is its second micro-batch.
        calls, compute_loss = iter(range(1, 100)), trainer_module.PreferenceTrainer.compute_loss
        trainer_module.PreferenceTrainer.compute_loss = lambda *args, **kwargs: (
            die() if next(calls) == 15 else compute_loss(*args, **kwargs)
        )
    else:
        trainer_module.write_json = lambda path, value: (
            die() if "checkpoint-8" in str(path) else write_json(path, value)
        )
    run("resumed", entry, track=track)


@pytest.mark.parametrize("kill", KILLS)
@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_resumes_to_the_same_bytes(run, tmp_path, name, kill):
    whole = run("whole", RUNS[name])
    child = multiprocessing.get_context("fork").Process(target=killed, args=(run, kill, RUNS[name]))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    scratch = tmp_path / "resumed-scratch"
    assert (scratch / "checkpoint-8").exists() == (kill == "while_saving_step_8")
    assert len(read_jsonl(scratch / "metrics.jsonl")) >= 7
    steps = []
    resumed = run("resumed", RUNS[name], track=lambda metrics, step: steps.append(step))
    assert steps == [*range(1, 13), 12]  # the rows before the kill are tracked again, then the evaluation
    assert content(resumed) == content(whole)


def test_only_whole_checkpoints_count(tmp_path):
    for step, files in ((4, {"a": "1"}), (8, {"a": "1"}), (12, {"a": "1"})):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        if step < 12:
            write_json(folder / "whole.json", {"a": 1})
    (tmp_path / "checkpoint-8" / "a").write_text("")
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]
    assert last_whole_checkpoint(tmp_path / "none") is None


def test_means_do_not_depend_on_the_split():
    values = torch.arange(7.0, dtype=torch.float64)
    means = []
    for split in ([7], [2, 2, 3], [1, 6]):
        totals = Totals()
        for part in values.split(split):
            totals.add({"x": part, "one": torch.ones_like(part)})
        means.append(totals.means())
    assert means == [{"x": 3.0, "one": 1.0}] * 3


def test_a_loss_that_is_not_finite_stops_the_run(run):
    with pytest.raises(UserError, match="lower its learning_rate"):
        run("hot", {**DPO, "learning_rate": 1e30})


def test_a_checkpoint_inside_a_logging_window_is_refused():
    """The rest of the window would be logged as if it were the whole."""
    with pytest.raises(ValidationError, match="save_steps must be a multiple of logging_steps"):
        numbers(logging_steps=3, save_steps=4)


def test_an_empty_file_of_pairs_is_refused(tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no pair"):
        PairData.read(tmp_path / "train.jsonl")


TWO_RANKS = """
import json, os, sys
from pathlib import Path
import torch
from epsilon_dpo.alignment import align
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.params.align import Align

torch.set_num_threads(1)
root, entry, numbers = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
out = root / f"rank{os.environ['RANK']}"
out.mkdir()
method, scratch = method_of("x", entry), root / "ddp-scratch"
align(method, Align(**numbers), 5, root / "sft", root / "pairs", out, scratch, lambda metrics, step: None)
"""


@pytest.mark.slow
@pytest.mark.parametrize("entry", [DPO, EPSILON_DPO, SOFT], ids=lambda entry: entry["method"])
def test_two_ranks_are_one_with_twice_the_batch(run, tmp_path, entry):
    settings = {"dtype": torch.float64, "count": 20}
    one = run("one", entry, per_device_train_batch_size=4, gradient_accumulation_steps=1, **settings)
    script = tmp_path / "two_ranks.py"
    script.write_text(TWO_RANKS)
    two = numbers(per_device_train_batch_size=2, gradient_accumulation_steps=1).model_dump_json()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29517"]
    subprocess.run([*command, str(script), str(tmp_path), json.dumps(entry), two], check=True, timeout=300)
    streams = [read_jsonl(folder / "metrics.jsonl") for folder in (one, tmp_path / "rank0")]
    for left, right in zip(*streams, strict=True):
        assert left.get("eps/beta_next") == right.get("eps/beta_next")
        assert left["loss"] == pytest.approx(right["loss"], abs=1e-7)
    torch.testing.assert_close(weights(one), weights(tmp_path / "rank0"), rtol=0, atol=1e-7)
    assert not list((tmp_path / "rank1").iterdir())
    metrics = [read_json(folder / "metrics.json") for folder in (one, tmp_path / "rank0")]
    assert metrics[0]["eval_loss"] == pytest.approx(metrics[1]["eval_loss"], abs=1e-7)
