"""Training runs of the released ε-DPO trainer itself (oddqueue/e-dpo under TRL 0.13.0, transformers 4.48.0), replayed.

released_traces.json holds what its `EpsilonDPOTrainer` did in 8 optimizer steps in float32 on a tiny Gemma-2 whose
answers have log-probs near -900 nats: every micro-batch's log-probs, decisions, loss and beta, every step's gradient
norm, and each 37th of the final weights. One run starts at policy = reference, one accumulates gradients. Weights and
pairs are drawn here again, from numpy's generator, in the same order.
"""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.utils.data import SequentialSampler
from transformers import Gemma2Config, Gemma2ForCausalLM, TrainingArguments

from epsilon_dpo.methods.epsilon_dpo import EpsilonDPO
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.training.alignment.pair_data import PairData
from epsilon_dpo.training.alignment.trainer import PreferenceTrainer
from epsilon_dpo.training.loop import micro_batches

pytestmark = pytest.mark.numeric
TRACES = json.loads((Path(__file__).parent / "released_traces.json").read_text("utf-8"))
STEPS, VOCAB, BETA = 8, 512, 0.1


def model_of(moved: float) -> Gemma2ForCausalLM:
    sizes = {"vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "query_pre_attn_scalar": 8}
    places = {"max_position_embeddings": 256, "sliding_window": 128, "attn_implementation": "eager"}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    model = Gemma2ForCausalLM(Gemma2Config(**sizes, **heads, **places, **special))
    draws, steps = np.random.RandomState(0), np.random.RandomState(1)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            weight.copy_(torch.from_numpy(0.1 * draws.standard_normal(tuple(weight.shape))))
            weight += torch.from_numpy(moved * steps.standard_normal(tuple(weight.shape)))
    return model


def pairs_of(seed: int, count: int) -> list[dict[str, Any]]:
    draws = np.random.RandomState(seed)

    def pair() -> dict[str, list[int]]:
        prompt = [1, *draws.randint(3, VOCAB, 15).tolist()]
        answers = [[*draws.randint(3, VOCAB, draws.randint(136, 153)).tolist(), 2] for _ in range(2)]
        return {"prompt_ids": prompt, "chosen_ids": answers[0], "rejected_ids": answers[1]}

    return [pair() for _ in range(count)]


def replayed(config: dict[str, Any], share_prompt: bool, folder: Path, monkeypatch) -> dict[str, Any]:
    """The same training by our trainer, recorded like a trace."""
    found: dict[str, Any] = {"decisions": [], "logps": [], "losses": [], "beta": [], "grad_norm": []}
    loss, log = EpsilonDPO.loss, PreferenceTrainer.log

    def recorded_loss(method, chosen, rejected):
        made = loss(method, chosen, rejected)
        sums = (chosen.policy, rejected.policy, chosen.reference, rejected.reference)
        found["logps"].append([x.detach().tolist() for x in sums])
        found["decisions"].append(made.metrics["eps/mean_step"].int().tolist())
        found["losses"].append(made.losses.mean().item())
        found["beta"].append(method.beta)
        return made

    def recorded_log(self, logs, *args):
        if "grad_norm" in logs:
            found["grad_norm"].append(float(logs["grad_norm"]))
        return log(self, logs, *args)

    in_order = lambda lengths, _, most: np.arange(len(lengths)).reshape(-1, most).tolist()  # noqa: E731
    monkeypatch.setattr(EpsilonDPO, "loss", recorded_loss)
    monkeypatch.setattr(PreferenceTrainer, "log", recorded_log)
    monkeypatch.setattr(PreferenceTrainer, "_get_train_sampler", lambda self, data: SequentialSampler(data))
    monkeypatch.setattr(micro_batches, "cut_by_length", in_order)
    pairs = PairData(pairs_of(config["seed"], config["batch"] * config["accumulation"] * STEPS))
    args = TrainingArguments(
        output_dir=str(folder),
        learning_rate=config["learning_rate"],
        lr_scheduler_type="constant",
        max_steps=STEPS,
        per_device_train_batch_size=config["batch"] * config["accumulation"],
        per_device_eval_batch_size=config["batch"],
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    entry = {"method": "epsilon_dpo", "beta": BETA, "epsilon": config["epsilon"]}
    method, policy = method_of("x", entry), model_of(config["moved"])
    PreferenceTrainer(policy, model_of(0.0), method, 512, args, pairs, pairs, 0, [], share_prompt).train()
    weights = {name: x.detach().flatten()[::37].tolist() for name, x in sorted(policy.named_parameters())}
    return {**found, "beta_after": method.beta, "weights": weights}


@pytest.mark.parametrize("share_prompt", [False, True])
@pytest.mark.parametrize("name", sorted(TRACES))
def test_the_released_run_is_replayed(name, share_prompt, tmp_path, monkeypatch):
    """Limits: loss 2e-5, log-probs 6e-4, gradient norm 1e-5 of it, weights 2.5e-4, and no decision flips."""
    trace = TRACES[name]
    with patch.dict("os.environ", CI="1"):
        found = replayed(trace["config"], share_prompt, tmp_path, monkeypatch)
    assert found["decisions"] == trace["decisions"]
    assert all(-1100 < logp < -700 for batch in trace["logps"] for side in batch for logp in side)
    flat = lambda logps: np.array(logps).ravel()  # noqa: E731
    np.testing.assert_allclose(flat(found["logps"]), flat(trace["logps"]), rtol=0, atol=6e-4)
    np.testing.assert_allclose(found["losses"], trace["losses"], rtol=0, atol=2e-5)
    # The released beta is a float32 from its first update on.
    np.testing.assert_allclose([*found["beta"], found["beta_after"]], [*trace["beta"], trace["beta_after"]], rtol=1e-6)
    np.testing.assert_allclose(found["grad_norm"], trace["grad_norm"], rtol=1e-5)
    for weight, values in trace["weights"].items():
        np.testing.assert_allclose(found["weights"][weight], values, rtol=0, atol=2.5e-4, err_msg=weight)
    decided = [s for batch in trace["decisions"][1:] for s in batch]
    assert min(decided.count(s) for s in (1, -1)) >= 10
