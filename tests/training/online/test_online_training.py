"""An online training as a whole: what it learns, what decides its bytes, what it refuses."""

import math
from pathlib import Path

import online_parts
import pytest
import torch
from online_runs import PPO, RLOO
from runs import LORA, config, content, weights
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.methods.rloo import METHOD
from epsilon_dpo.models.logps import head as logps
from epsilon_dpo.pipeline.launch.processes import run_part
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl, write_jsonl
from epsilon_dpo.pipeline.stage.runs import policy_paths
from epsilon_dpo.training.loop.params import LoRA
from epsilon_dpo.training.online import online_alignment
from epsilon_dpo.training.online.online_trainer import OnlineTrainer
from epsilon_dpo.training.online.rollouts import Rollouts

STEPS = 20
ENTRIES = {"rloo": RLOO, "rloo_again": RLOO | {"iterations": 2}, "ppo": PPO}
OF_ANSWERS = {
    *("reward", "reward_std", "kl/rev", "kl/rev_k1", "kl/rev_k3", "kl/fwd_own", "entropy", "tokens/answer"),
    *("truncated", "no_spread", "advantage_std", "clip_share", "loss", "grad_norm", "learning_rate", "epoch", "step"),
    "num_input_tokens_seen",
}
OF_EVALUATION = {
    *("eval_loss", "eval_rewards/accuracies", "eval_rewards/margins", "eval_margins_raw", "eval_logps/chosen"),
    *("eval_kl/fwd_data", "eval_reward", "eval_kl/rev", "eval_tokens/answer", "eval_truncated"),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_it_learns_and_logs_what_every_run_logs(online, name):
    folder = online(name, ENTRIES[name] | {"steps": STEPS, "beta": 0.01})
    rows, metrics = read_jsonl(folder / "metrics.jsonl"), read_json(folder / "metrics.json")
    of_method = {"policy_loss", "value_loss", "ppo/beta"} if name == "ppo" else set()
    assert all(row.keys() == OF_ANSWERS | of_method for row in rows)
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert metrics.keys() >= OF_EVALUATION
    updates = {"rloo": 1, "rloo_again": 2, "ppo": 4}[name]
    assert [row["step"] for row in rows] == list(range(updates, STEPS * updates + 1, updates))
    assert metrics["steps"] == STEPS * updates and metrics["train_epoch"] == 10.0  # 9 prompts, 2 steps of 4 a pass
    assert abs(rows[0]["kl/rev"]) < 1e-6 < rows[-1]["kl/rev"] and min(row["kl/rev"] for row in rows) > -1e-6
    first, last = (sum(row["reward"] for row in part) / 5 for part in (rows[:5], rows[-5:]))
    assert last > first + 0.1 and metrics["eval_reward"] > first
    assert (metrics["beta"] != 0.01) if name == "ppo" else ("beta" not in metrics)
    assert (folder / "model" / "tokenizer.json").is_file()


@pytest.mark.parametrize("entry", [RLOO, PPO], ids=lambda entry: entry["method"])
def test_the_same_run_has_the_same_bytes_and_another_seed_has_others(online, entry):
    """A run's own seed is as the pipeline's would be, wherever it draws."""
    once, again, own, pipelines = (
        online(name, entry | {"steps": 3} | own, seed=seed)
        for name, own, seed in (("a", {}, 5), ("b", {}, 5), ("c", {"seed": 6}, 5), ("d", {}, 6))
    )
    assert content(once) == content(again) and content(own) == content(pipelines)
    assert content(once)["model/model.safetensors"] != content(own)["model/model.safetensors"]


@pytest.mark.numeric
@pytest.mark.parametrize("entry", [RLOO, RLOO | {"iterations": 2}, PPO], ids=["rloo", "rloo_again", "ppo"])
def test_the_micro_batch_changes_rounding_alone(online, entry):
    """Of the 12 answers of a generation, 5 at once or all; what is drawn is the same to the token. In float64, but
    Gemma-2's norms and softmax are float32 in any case: the mask of float64 is -inf there, and the padding of a prompt
    would see nothing, so each is drawn alone."""
    once = {"dtype": torch.float64, "drawn_at_once": 1}
    some, all_ = (online(f"{size}", entry | {"steps": 3}, micro_batch_size=size, **once) for size in (5, 12))
    for row, same in zip(read_jsonl(some / "metrics.jsonl"), read_jsonl(all_ / "metrics.jsonl"), strict=True):
        assert row["reward"] == same["reward"] and row["tokens/answer"] == same["tokens/answer"]
        del row["clip_share"], same["clip_share"]  # of an answer whose advantage is 0 it is decided by rounding
        assert row == pytest.approx(same, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(weights(some), weights(all_), rtol=0, atol=1e-5)


@pytest.mark.parametrize("entry", [RLOO | {"iterations": 2}, PPO], ids=lambda entry: entry["method"])
def test_without_a_reward_nothing_moves(online, entry):
    """At pi = rho all rewards are 0, and so are their advantages, gradients and the KL: to the last bit."""
    folder = online("still", entry | {"steps": 4}, score=lambda prompts, answers: [0.0] * len(answers))
    rows = read_jsonl(folder / "metrics.jsonl")
    assert all(row["grad_norm"] == row["reward"] == row["kl/rev_k1"] == 0.0 for row in rows)
    moved, untouched = weights(folder), load_file(folder.parent / "sft" / "model.safetensors")
    assert all(torch.equal(moved[name], untouched[name]) for name in untouched)


def test_a_constant_reward_is_none_to_rloo(online):
    """The same for every answer, it cancels from each advantage."""
    folder = online("constant", RLOO | {"steps": 4}, score=lambda prompts, answers: [7.0] * len(answers))
    rows = read_jsonl(folder / "metrics.jsonl")
    assert all(row["grad_norm"] == 0.0 and row["no_spread"] == 1.0 for row in rows)


def test_the_spread_of_scores_is_that_of_a_prompts_answers_and_of_all(online):
    """Of 4 prompts one has three equal answers. 7, 7, 7 and three times 0, 1, 2 have mean 2.5 and mean square 13.5."""

    def scored(prompts, answers):
        return ([7.0, 7.0, 7.0] + 3 * [0.0, 1.0, 2.0])[: len(answers)]

    rows = read_jsonl(online("spread", RLOO | {"steps": 2}, score=scored) / "metrics.jsonl")
    assert [(row["no_spread"], row["reward"]) for row in rows] == [(0.25, 2.5)] * 2
    assert [row["reward_std"] for row in rows] == pytest.approx([math.sqrt(13.5 - 2.5**2)] * 2)


@pytest.mark.parametrize("entry", [RLOO, PPO], ids=lambda entry: entry["method"])
def test_an_adapter_is_trained_against_its_own_base(online, entry):
    folder = online("lora", entry | {"steps": 4}, lora=LoRA(**LORA))
    rows = read_jsonl(folder / "metrics.jsonl")
    assert (folder / "model" / "adapter_model.safetensors").is_file()
    assert not (folder / "model" / "model.safetensors").exists()
    assert abs(rows[0]["kl/rev"]) < 1e-6 < rows[-1]["kl/rev"]


@pytest.mark.parametrize("entry", [RLOO, PPO | {"adaptive_kl": None}], ids=lambda entry: entry["method"])
def test_half_precision_and_recomputed_layers_stay_finite(online, entry):
    """Batches of one answer; policy and reference compute alike, so that the first KL is 0 (as is the first rate)."""
    changes = {"bf16": True, "gradient_checkpointing": True, "micro_batch_size": 1}
    folder = online("half", entry | {"steps": 3, "prompts_per_step": 2}, **changes)
    rows = read_jsonl(folder / "metrics.jsonl")
    assert len(rows) == 3 and all(math.isfinite(value) for row in rows for value in row.values())
    assert rows[0]["kl/rev_k1"] == 0.0 < rows[2]["kl/rev"]


def test_the_policy_that_drew_is_the_one_that_is_updated(online, monkeypatch):
    """To the last bit, however the answers are cut: in bfloat16 the ratio of a whole answer was clipped for rounding,
    where several processes cut the answers otherwise than when they drew them."""
    ratios = []

    def loss(self, update):
        ratios.append(((update.policy - update.old_policy) * update.mask).sum(1).exp())
        return of_method(self, update)

    def drawn_alone(self, rows, *of_update):
        return cut(self, rows, *of_update) if of_update else [[place] for place in range(len(rows))]

    of_method, cut = METHOD.loss, Rollouts.cut
    monkeypatch.setattr(METHOD, "loss", loss)
    monkeypatch.setattr(Rollouts, "cut", drawn_alone)
    online("cut otherwise", RLOO | {"steps": 2}, micro_batch_size=12)
    assert ratios and all(torch.equal(ratio, torch.ones_like(ratio)) for ratio in ratios)


@pytest.mark.parametrize(
    "entry", [RLOO | {"iterations": 2}, PPO | {"minibatches": 1}], ids=lambda entry: entry["method"]
)
def test_a_second_pass_is_measured_from_when_the_answers_were_drawn(online, monkeypatch, entry):
    """Log-probs and values of the weights that drew, which the first pass moved away from. Each pass is one update."""
    kind, updates = type(method_of("x", entry)), []
    of_method = kind.loss

    def loss(self, update):
        updates.append(update)
        return of_method(self, update)

    monkeypatch.setattr(kind, "loss", loss)
    online("again", entry | {"steps": 2}, micro_batch_size=12, warmup_ratio=0.0)
    names = {"policy": "old_policy", "values": "old_values"} if entry["method"] == "ppo" else {"policy": "old_policy"}
    assert len(updates) == 4
    for first, second in (updates[:2], updates[2:]):
        for name, old in names.items():
            now, then = getattr(second, name).detach(), getattr(second, old)
            torch.testing.assert_close(then, getattr(first, name).detach(), rtol=0, atol=1e-4)
            assert (now - then).abs().max() > 1e-3, name


def test_a_pass_takes_every_answer_once_and_a_step_is_the_mean_over_its_tokens(online, monkeypatch):
    """Three passes over 8 answers, each of two steps of 4, which are two micro-batches each."""
    kind, drawn, taken, losses = type(method_of("x", PPO)), [], [], []
    of_method, of_step, of_generation = kind.loss, OnlineTrainer.training_step, kind.advantages

    def told_apart(logps, mask):
        return [tuple(row[kept].tolist()) for row, kept in zip(logps, mask, strict=True)]

    def advantages(self, answers):
        drawn.append(told_apart(answers.policy, answers.mask))
        return of_generation(self, answers)

    def training_step(self, *args, **kwargs):
        taken.append([])
        losses.clear()
        total = of_step(self, *args, **kwargs)
        assert total.item() == pytest.approx(torch.cat(losses).mean().item(), rel=1e-9, abs=1e-12)
        return total

    def loss(self, update):
        found = of_method(self, update)
        taken[-1] += told_apart(update.old_policy, update.mask)
        losses.append(found.losses.detach())
        return found

    monkeypatch.setattr(kind, "advantages", advantages)
    monkeypatch.setattr(kind, "loss", loss)
    monkeypatch.setattr(OnlineTrainer, "training_step", training_step)
    online("passes", PPO | {"epochs": 3, "steps": 2}, micro_batch_size=3)
    assert [len(answers) for answers in drawn] == [8] * 2 and [len(answers) for answers in taken] == [4] * 12
    for answers, steps in zip(drawn, (taken[:6], taken[6:]), strict=True):
        passes = [sorted(first + second) for first, second in zip(steps[::2], steps[1::2], strict=True)]
        assert passes == [sorted(answers)] * 3
        assert len({tuple(sorted(first)) for first in steps[::2]}) > 1, "each pass divides them anew"


def test_the_value_heads_gradient_is_clipped_with_the_policys(online):
    """Their common norm is max_grad_norm at most, in each of the four steps of a generation."""
    norms, heads = [], []

    def noted(optimizer, args, kwargs):
        groups = [[weight.grad.double().norm() for weight in group["params"]] for group in optimizer.param_groups]
        norms.append(torch.stack([norm for group in groups for norm in group]).norm().item())
        heads.append(torch.stack(groups[-1]).norm().item())
        assert len(groups[-1]) == 2, "weight and bias of the value head"

    noting = register_optimizer_step_pre_hook(noted)
    try:
        online("clipped", PPO | {"steps": 1}, max_grad_norm=1e-3)
    finally:
        noting.remove()
    assert norms == pytest.approx([1e-3] * 4, rel=0.01)
    assert all(0.0 < head < 1e-3 for head in heads)


def test_an_evaluation_is_of_one_answer_to_each_prompt_held_out(online):
    """Which are five; a generation answers four of the nine others, three times each."""
    asked = []

    def scored(prompts, answers):
        asked.append(len(prompts))
        return [float(number) for number in range(len(answers))]

    metrics = read_json(online("held out", RLOO | {"steps": 2}, score=scored) / "metrics.json")
    assert asked == [12, 12, 5] and metrics["eval_reward"] == 2.0, "the mean of 0 to 4"


def test_snapshots_are_kept_by_passes_over_the_prompts(online):
    folder = online("kept", RLOO | {"steps": 6, "snapshot_epochs": 1.0})
    assert policy_paths(folder) == ["snapshots/000002", "snapshots/000004", "."]
    assert {file.name for file in (folder / "snapshots/000002/model").iterdir()} >= {"model.safetensors"}


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_refused_with_its_prompt(online, score):
    def broken(prompts, answers):
        return [*[0.5] * (len(answers) - 1), score]

    with pytest.raises(UserError, match=rf"The scorer gave {score} to an answer to the prompt '\?' \(row pair/\d\)"):
        online("broken", RLOO, score=broken)
    with pytest.raises(UserError, match="gave 11 scores to 12 answers"):
        online("missing", RLOO, score=lambda prompts, answers: [0.5] * (len(answers) - 1))


def test_what_cannot_be_trained_is_refused_before_anything_is_drawn(online, monkeypatch, tmp_path):
    def never(prompts, answers):
        raise AssertionError

    with pytest.raises(UserError, match=r"have 9 different prompts, fewer than a step's 10; lower this run's prompts"):
        online("few", RLOO | {"prompts_per_step": 10}, score=never)
    with pytest.raises(UserError, match=r"max_new_tokens is 60, together more than the 64 positions of the model"):
        online("long", RLOO | {"max_new_tokens": 60}, score=never)
    asked = read_jsonl(tmp_path / "pairs" / "eval_prompts.jsonl")
    longer = [*asked, asked[0] | {"id": "longer", "prompt_ids": [1] * 57}]  # which is asked after the last step alone
    write_jsonl(tmp_path / "pairs" / "eval_prompts.jsonl", longer)
    with pytest.raises(UserError, match=r"row longer has 57 tokens and this run's max_new_tokens is 8, together more"):
        online("long in the end", RLOO, score=never)
    write_jsonl(tmp_path / "pairs" / "eval_prompts.jsonl", [*asked, asked[0] | {"prompt_ids": [1] * 56}])
    with pytest.raises(AssertionError):  # 56 and 8 are the 64 positions: it draws, and asks for scores
        online("just short enough", RLOO, score=never)
    monkeypatch.setattr(online_alignment, "asked_for", lambda: True)
    with pytest.raises(UserError, match=r"runs of method rloo draw answers with all weights in each process"):
        online("sharded", RLOO, score=never)


def test_empty_answers_are_scored(online):
    """A stop token alone is an answer, of one token and no text."""
    seen = []

    def scored(prompts, answers):
        seen.extend(answers)
        return [1.0 if not text else 0.0 for text in answers]

    folder = online("empty", RLOO | {"steps": 20, "k": 8, "beta": 0.001}, score=scored, learning_rate=3e-2)
    rows = read_jsonl(folder / "metrics.jsonl")
    assert "" in seen and rows[-1]["reward"] >= 0.4 > 0.1 > rows[0]["reward"]
    assert rows[-1]["tokens/answer"] < rows[0]["tokens/answer"]


@pytest.mark.slow
def test_two_processes_train_as_one(online, tmp_path, two_processes, monkeypatch):
    """Each draws and scores its share of a generation; 10 answers leave an optimizer step with an odd one."""
    runs = {
        "rloo": (RLOO | {"steps": 5, "prompts_per_step": 3}, {}),
        "ppo": (PPO | {"steps": 4, "prompts_per_step": 5, "minibatches": 2}, {"micro_batch_size": 2}),
        "lora": (RLOO | {"steps": 4}, {"lora": LORA}),
    }
    alone = {name: online(name, entry, **changes) for name, (entry, changes) in runs.items()}
    settings = {"batch_size": 32, "micro_batch_size": 4, "learning_rate": 1e-2}
    blocks = {name: [entry, config(**settings | changes).model_dump()] for name, (entry, changes) in runs.items()}
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{here.parent.parent.parent / 'src'}:{here}:{here.parent}")
    two_processes("ddp")
    run_part(online_parts.online_trainings, {"root": str(tmp_path), "runs": blocks}, lambda metrics, step: None)
    for name, one in alone.items():
        two = tmp_path / "processes" / name
        rows, same = read_jsonl(one / "metrics.jsonl"), read_jsonl(two / "metrics.jsonl")
        assert len(rows) == len(same)
        for row, other in zip(rows, same, strict=True):
            assert row == pytest.approx(other, rel=1e-3, abs=1e-4)
        metrics, other = read_json(one / "metrics.json"), read_json(two / "metrics.json")
        assert other.pop("processes") == 2 and metrics == pytest.approx(other, rel=1e-3, abs=1e-4)
        files = [file.relative_to(one) for file in one.glob("model/*.safetensors")]
        assert files
        for file in files:
            torch.testing.assert_close(load_file(one / file), load_file(two / file), rtol=0, atol=2e-4)


def test_a_model_whose_pairs_cannot_share_a_row_is_refused_before_it_trains(online, monkeypatch):
    """Its evaluation would be of other log-probs, or end in a traceback after the last step."""
    whole, steps = logps.shared_prompt_inputs, []
    part = lambda *args: {name: x for name, x in whole(*args).items() if name != "position_ids"}  # noqa: E731
    monkeypatch.setattr(logps, "shared_prompt_inputs", part)
    with pytest.raises(UserError, match=r"align\.share_prompt: true is not exact"):
        online("wrong", RLOO | {"steps": 1}, track=lambda metrics, step: steps.append(step))
    assert not steps
