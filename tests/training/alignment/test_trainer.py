"""The trainer through stage align's call: what it writes and logs, and what it refuses."""

import dataclasses
import math

import pytest
import torch
from runs import DPO, EPSILON_DPO, HARD, RRHF, SOFT, content, weights
from transformers import AutoModelForCausalLM, FalconConfig, FalconForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers.models.gemma2.modeling_gemma2 import Gemma2MLP, Gemma2Model
from trl_trainers import float32_means_float64

from epsilon_dpo.methods.dpo import DPO as DPOMethod
from epsilon_dpo.models.logps import head
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl
from epsilon_dpo.training.alignment.pair_data import PairCollator, PairData
from epsilon_dpo.training.alignment.reference_model import refuse_noise
from epsilon_dpo.training.alignment.trainer import PreferenceTrainer
from epsilon_dpo.training.loop import micro_batches

pytestmark = pytest.mark.numeric


def test_the_result_is_complete_and_the_same_twice(run):
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


def test_the_loss_of_the_training_is_what_transformers_calls_so(run, monkeypatch):
    """And not the last step's; of that step nothing passes for the training's."""
    train, theirs = PreferenceTrainer.train, []
    monkeypatch.setattr(
        PreferenceTrainer, "train", lambda *args, **options: theirs.append(train(*args, **options).training_loss)
    )
    folder = run("mean", EPSILON_DPO)
    rows, metrics = read_jsonl(folder / "metrics.jsonl"), read_json(folder / "metrics.json")
    assert metrics["train_loss"] == pytest.approx(*theirs, rel=1e-5) != pytest.approx(rows[-1]["loss"], rel=1e-3)
    assert {name: value for name, value in metrics.items() if name.startswith("train_")} == {
        "train_loss": pytest.approx(sum(row["loss"] for row in rows) / 12),
        "train_epoch": 2.0,
        "train_num_input_tokens_seen": rows[-1]["num_input_tokens_seen"],
    }


def test_a_runs_own_learning_rate_is_the_one_it_trains_with(run):
    constant = {"lr_scheduler_type": "constant", "warmup_ratio": 0.0, "max_steps": 2, "learning_rate": 1e-3}
    rows = read_jsonl(run("own", DPO | {"learning_rate": 2e-3}, **constant) / "metrics.jsonl")
    assert [row["learning_rate"] for row in rows] == [2e-3, 2e-3]


def test_the_first_step_is_an_exact_tie(run):
    row = read_jsonl(run("tie", EPSILON_DPO, max_steps=1, warmup_ratio=0.0) / "metrics.jsonl")[0]
    assert row["loss"] == pytest.approx(0.6931471805599453, rel=1e-7)
    assert row["eps/kept"] == 1.0 and row["eps/beta_next"] == 0.3
    assert row["margins_raw"] == row["kl/fwd_data"] == row["eps/mean_abs"] == 0.0
    assert row["rewards/accuracies"] == 0.0, "an answer is preferred where its reward is the larger one"


@pytest.mark.parametrize("share_prompt", [False, True])
def test_logged_metrics_are_those_of_the_models_own_logits(run, tmp_path, token_pairs, share_prompt):
    """One step over all pairs, then another: the first row, and the evaluation, from full logits in float64.

    Gemma-2's norms and softmax, too: in float32, which they ask for, they round by the shape of their rows, and that
    differs between a batch and a row of it.
    """
    settings = {"max_steps": 2, "batch_size": 16, "micro_batch_size": 8, "count": 16, "warmup_ratio": 0.0}
    with float32_means_float64():
        folder = run("logged", DPO, dtype=torch.float64, share_prompt=share_prompt, **settings)
    exact = {"rel": 1e-9}
    row, metrics = read_jsonl(folder / "metrics.jsonl")[0], read_json(folder / "metrics.json")
    load = lambda path: AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()  # noqa: E731
    before, after = load(tmp_path / "sft"), load(folder / "model")

    def scores(model, pair, side):
        """Log-probs of the whole vocabulary where the answer's tokens are, [tokens, vocabulary]."""
        ids = torch.tensor([pair["prompt_ids"] + pair[side]])
        with float32_means_float64(), torch.no_grad():
            return model(ids).logits[0, len(pair["prompt_ids"]) - 1 : -1].log_softmax(-1)

    def logp(model, pair, side):
        return scores(model, pair, side).gather(1, torch.tensor(pair[side])[:, None]).sum().item()

    def kl(one, other, pair):
        p, q = (scores(model, pair, "chosen_ids") for model in (one, other))
        return (p.exp() * (p - q)).sum().item()

    train, evaluation = token_pairs(16), token_pairs(21)[16:]
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    assert row["logps/chosen"] == pytest.approx(mean([logp(before, pair, "chosen_ids") for pair in train]), **exact)
    assert row["logps/rejected"] == pytest.approx(mean([logp(before, p, "rejected_ids") for p in train]), **exact)
    for side in ("chosen", "rejected"):
        assert row[f"tokens/{side}"] == mean([len(pair[f"{side}_ids"]) for pair in train])
        per_token = mean([logp(before, pair, f"{side}_ids") / len(pair[f"{side}_ids"]) for pair in train])
        assert row[f"logps_per_token/{side}"] == pytest.approx(per_token, **exact)
    trained, ratios = (
        [[logp(after, pair, side) - logp(before, pair, side) for side in ("chosen_ids", "rejected_ids")] for pair in of]
        for of in (train, evaluation)
    )
    assert mean([chosen - rejected for chosen, rejected in trained]) > 1e-2  # towards the chosen answers
    assert max(abs(h) for pair in ratios for h in pair) > 1e-2  # the step did move the policy
    margins = [0.3 * (chosen - rejected) for chosen, rejected in ratios]
    for side, of_side in zip(("chosen", "rejected"), zip(*ratios, strict=True), strict=True):
        assert metrics[f"eval_rewards/{side}"] == pytest.approx(0.3 * mean(of_side), rel=1e-9, abs=1e-10)
    assert metrics["eval_rewards/margins"] == pytest.approx(mean(margins), **exact)
    assert metrics["eval_margins_raw"] == pytest.approx(mean(margins) / 0.3, **exact)
    proxy = -mean([chosen for chosen, _ in ratios])
    assert metrics["eval_kl/fwd_proxy"] == pytest.approx(proxy, rel=1e-9, abs=1e-10)
    for name, one, other in (("fwd", before, after), ("rev", after, before)):  # KL(ref || pi), KL(pi || ref)
        expected = mean([kl(one, other, pair) for pair in evaluation])
        assert metrics[f"eval_kl/{name}_data"] == pytest.approx(expected, rel=1e-7)
    assert metrics["eval_rewards/accuracies"] == mean([margin > 0 for margin in margins])
    loss = -torch.tensor(margins).double().sigmoid().log().mean().item()
    assert metrics["eval_loss"] == pytest.approx(loss, **exact)


@pytest.mark.parametrize("share_prompt", [False, True])
def test_tokens_and_entropy_are_counted_over_real_tokens(run, token_pairs, tmp_path, share_prompt):
    settings = {"dtype": torch.float64, "batch_size": 44, "micro_batch_size": 22, "share_prompt": share_prompt}
    with float32_means_float64():
        rows = read_jsonl(run("counted", DPO, **settings) / "metrics.jsonl")
    pairs, prompts = token_pairs(22), 1 if share_prompt else 2
    tokens = sum(prompts * len(p["prompt_ids"]) + len(p["chosen_ids"]) + len(p["rejected_ids"]) for p in pairs)
    assert [row["num_input_tokens_seen"] for row in rows] == [tokens, 2 * tokens]
    model, entropies = AutoModelForCausalLM.from_pretrained(tmp_path / "sft", dtype="auto").eval(), []
    for pair in pairs:
        total = 0.0
        for side in ("chosen_ids", "rejected_ids"):
            ids = torch.tensor([pair["prompt_ids"] + pair[side]])
            with float32_means_float64():
                logs = model(ids).logits[0, len(pair["prompt_ids"]) - 1 : -1].log_softmax(-1)
            total -= (logs.exp() * logs).sum().item()
        entropies.append(total / (len(pair["chosen_ids"]) + len(pair["rejected_ids"])))
    assert rows[0]["entropy"] == pytest.approx(sum(entropies) / 22, rel=1e-9)


def test_a_reference_that_moves_after_the_last_step_is_dpo(run):
    never = run("never", {**SOFT, "sync_steps": 12}, max_steps=12)
    assert torch.equal(weights(never)["model.norm.weight"], weights(run("dpo", DPO))["model.norm.weight"])
    moved = weights(run("moved", SOFT))["model.norm.weight"]
    assert not torch.equal(moved, weights(never)["model.norm.weight"])


def test_epochs_in_which_no_step_sees_a_moved_reference_are_refused(run):
    """The report would call DPO by another name; who cuts a training short knows."""
    with pytest.raises(UserError, match="has 12 optimizer steps, and tr_dpo with this config needs 13 or more to be"):
        run("short", SOFT | {"sync_steps": 12})
    assert run("cut", SOFT | {"sync_steps": 12}, max_steps=2)


def test_gradient_checkpointing_and_bfloat16_autocast_run(run, monkeypatch):
    """Layers that are not kept are run a second time, to the same numbers."""
    layers, forward = [], Gemma2MLP.forward

    def counted(self, x):
        layers[-1] += 1
        return forward(self, x)

    monkeypatch.setattr(Gemma2MLP, "forward", counted)
    layers.append(0)
    plain = read_jsonl(run("plain", EPSILON_DPO) / "metrics.jsonl")
    layers.append(0)
    thrifty = read_jsonl(run("thrifty", EPSILON_DPO, gradient_checkpointing=True) / "metrics.jsonl")
    assert thrifty == plain and layers[1] > layers[0]
    half = read_jsonl(run("half", EPSILON_DPO, bf16=True) / "metrics.jsonl")
    assert half[0]["eps/kept"] == 1.0 and half[-1]["loss"] == pytest.approx(plain[-1]["loss"], rel=0.1)
    assert half[0]["entropy"] != plain[0]["entropy"], "it does round"


def test_a_moving_reference_does_not_hide_the_distance_from_the_first(run):
    """Right after a hard sync the margin is 0 and the loss log 2 again, but the KL is that of the initial reference."""
    rows = read_jsonl(run("hard", HARD, warmup_ratio=0.0) / "metrics.jsonl")
    synced = [row for row in rows if row["margins_raw"] == 0.0]
    tied = [row for row in rows if row["loss"] == pytest.approx(math.log(2.0), abs=1e-7)]
    assert [row["step"] for row in synced] == [row["step"] for row in tied] == [1, 4, 7, 10]
    assert rows[0]["kl/fwd_data"] == rows[0]["kl/fwd_proxy"] == 0.0
    assert all(row["kl/fwd_data"] > 1e-4 and row["kl/rev_data"] > 1e-4 for row in synced[1:])
    assert all(row["kl/fwd_proxy"] != 0.0 for row in synced[1:])


def test_a_method_without_reference_runs_none(run, monkeypatch):
    models, forward = set(), Gemma2Model.forward

    def counted(self, *args, **kwargs):
        models.add(id(self))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Gemma2Model, "forward", counted)
    row = read_jsonl(run("free", RRHF, max_steps=2) / "metrics.jsonl")[0]
    assert len(models) == 1 and not [name for name in row if name.startswith("kl/")] and "margins_raw" not in row
    models.clear()
    assert "margins_raw" in read_jsonl(run("with", DPO, max_steps=2) / "metrics.jsonl")[0]
    assert len(models) == 2


def test_a_shared_prompt_that_goes_wrong_is_found_before_the_training(run, monkeypatch, token_pairs):
    whole, longest = head.shared_prompt_inputs, max(map(PairCollator(0, share_prompt=True).length, token_pairs(22)))
    for shortest in (0, longest):  # that goes wrong: as attention that ignores masks, always or beyond a window
        part = lambda model, form, at=shortest: {} if form.part.shape[1] >= at else whole(model, form)  # noqa: E731
        monkeypatch.setattr(head, "shared_prompt_inputs", part)
        with pytest.raises(UserError, match=r"align\.share_prompt: true is not exact .* set it to false"):
            run(f"wrong from {shortest}", DPO)
    run("right", DPO, share_prompt=False, max_steps=1, warmup_ratio=0.0)


def test_cutting_by_length_computes_less_of_the_same_steps(run, monkeypatch):
    as_drawn = lambda lengths, _, most: [list(range(n, n + most)) for n in range(0, len(lengths), most)]  # noqa: E731
    compute_loss, found = PreferenceTrainer.compute_loss, []

    def counted(self, model, inputs, *args, **kwargs):
        steps, slots = found[-1]
        rows = [tuple(row[row != 0].tolist()) for row in inputs["input_ids"]]
        steps.setdefault(self.state.global_step, set()).update(rows)
        slots.append(inputs["input_ids"].numel())
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(PreferenceTrainer, "compute_loss", counted)
    for name, cut in (("cut", micro_batches.cut_by_length), ("drawn", as_drawn)):
        found.append(({}, []))
        monkeypatch.setattr(micro_batches, "cut_by_length", cut)
        run(name, DPO, count=24, batch_size=8)
    (steps, slots), (steps_as_drawn, slots_as_drawn) = found
    assert steps == steps_as_drawn and len(steps) == 6
    assert len(slots) <= len(slots_as_drawn) and sum(slots) < sum(slots_as_drawn)


def test_a_loss_that_is_not_finite_stops_the_run(run, monkeypatch):
    honest = DPOMethod.loss

    def lost(self, chosen, rejected):
        found = honest(self, chosen, rejected)
        return dataclasses.replace(found, losses=found.losses * math.inf)

    monkeypatch.setattr(DPOMethod, "loss", lost)
    with pytest.raises(UserError, match="the loss of dpo became inf at step 1; lower its learning_rate"):
        run("hot", DPO)


def test_an_empty_file_of_pairs_is_refused(tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no pair"):
        PairData.read(tmp_path / "train.jsonl")


def test_a_model_that_draws_at_random_in_training_is_refused():
    """Falcon reads its dropout from the config at each call, where none can be switched off."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
    refuse_noise(FalconForCausalLM(FalconConfig(**sizes)))
    with pytest.raises(UserError, match="FalconForCausalLM draws at random in training"):
        refuse_noise(FalconForCausalLM(FalconConfig(**sizes, hidden_dropout=0.1)))
    router = MixtralForCausalLM(
        MixtralConfig(**sizes, intermediate_size=16, num_key_value_heads=1, router_jitter_noise=0.1)
    )
    refuse_noise(router)
