"""RLOO against TRL 1.16: its trainer draws answers and scores them, and makes advantages, a loss and its gradients.

Ours gets the same answers and scores. As in test_trl_parity.py once in float32, where TRL is as it ships, and once with
every float32 of TRL widened to float64.
"""

import contextlib
from unittest.mock import patch

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import AutoTokenizer
from trl import RLOOConfig, RLOOTrainer
from trl_trainers import float32_means_float64, gradients

from epsilon_dpo.methods.online import Answers, Update
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.models.logps.head import add_logps_head, head_of
from epsilon_dpo.models.logps.kernel import Reference
from epsilon_dpo.training.online.answer_logps import AnswerLogps

pytestmark = pytest.mark.numeric

TOLERANCES = {torch.float32: 2e-5, torch.float64: 1e-8}  # TRL pads on the left, so that its positions are others
PROMPTS, K = ["w3 w7 w9", "w5 w2", "w11 w12 w13 w4"], 4
ENTRY = {"method": "rloo", "beta": 0.05, "k": K, "prompts_per_step": len(PROMPTS), "steps": 1, "max_new_tokens": 8}


def worth(completion_ids, **_):
    """More for small tokens and for longer answers; tied for some answers."""
    return [sum(token < 30 for token in ids) - 0.25 * len(ids) for ids in completion_ids]


@pytest.fixture(params=TOLERANCES, ids=str)
def setting(request, tiny_gemma, sft_folder, tmp_path):
    """TRL's trainer of a policy that has moved from its reference, and models like its two for us."""
    folder = sft_folder(request.param)  # the reference, seed 0, which TRL loads by the policy's path
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")

    def model(seed):
        made = tiny_gemma(seed).to(request.param)
        made.config._name_or_path = made.name_or_path = str(folder)
        return made

    policy = model(0)
    with torch.no_grad():  # the reference, moved a little: log-ratios of some nats
        for own, other in zip(policy.parameters(), model(1).parameters(), strict=True):
            own.lerp_(other, 0.1)
    ours = model(0)
    ours.load_state_dict(policy.state_dict())
    config = RLOOConfig(
        output_dir=str(tmp_path),
        **{"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True},
        **{"per_device_train_batch_size": K * len(PROMPTS), "num_generations": K, "max_completion_length": 40},
        **{"beta": 0.05, "epsilon": 0.2, "seed": 3, "save_strategy": "no", "model_init_kwargs": None},
        **{"normalize_advantages": False, "num_iterations": 2},
    )
    with patch.dict("os.environ", CI="1"):  # a TRL trainer reports its use to its authors, except in CI
        trainer = RLOOTrainer(
            model=policy,
            reward_funcs=worth,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
            processing_class=tokenizer,
        )
    trainer.ref_model.to(request.param)
    exact = float32_means_float64 if request.param == torch.float64 else contextlib.nullcontext
    reference = model(0)
    for one in (ours, reference):
        add_logps_head(one)
    return trainer, ours, reference, exact, TOLERANCES[request.param]


def rows_of(drawn):
    """Token ids of prompts and answers of TRL's batch, without its padding."""
    sides = ("prompt", "completion")
    parts = [zip(drawn[f"{side}_ids"], drawn[f"{side}_mask"], strict=True) for side in sides]
    return list(zip(*([ids[mask.bool()].tolist() for ids, mask in part] for part in parts), strict=True))


def test_advantages_loss_and_gradients_are_those_of_trl(setting):
    trainer, policy, model_of_reference, exact, tolerance = setting
    trainer.model.train()
    with exact():
        drawn = trainer._generate_and_score_completions([{"prompt": text} for text in PROMPTS for _ in range(K)])
    rows = rows_of(drawn)
    assert len(rows) == 12 and len({len(answer) for _, answer in rows}) > 2

    def reference(batch):
        with torch.no_grad():
            return Reference(model_of_reference(**batch), head_of(model_of_reference))

    method = method_of("x", ENTRY)
    logps = AnswerLogps(None, 7, 0, Accelerator(cpu=True))
    with exact(), torch.no_grad():
        then = logps(policy, rows, reference)
    scores = torch.tensor(worth([answer for _, answer in rows]), dtype=torch.float64)
    answers = Answers(scores, then.policy, then.reference, then.mask, torch.ones(len(rows), dtype=torch.bool))
    targets = method.advantages(answers)
    assert targets.advantages.abs().max() > 0.3 and answers.logratios.abs().max() > 0.1
    torch.testing.assert_close(targets.advantages, drawn["advantages"].double(), rtol=0, atol=10 * tolerance)
    torch.testing.assert_close(then.policy.sum(1), drawn["old_logps"].double(), rtol=0, atol=10 * tolerance)
    k1 = answers.logratios.sum() / then.mask.sum()  # TRL's metric is per token, and may be negative
    assert trainer._metrics["train"]["kl"][-1] == pytest.approx(k1.item(), abs=10 * tolerance)

    clipped = []
    for _ in range(3):  # iterations on the same answers; with the first the ratio is 1
        with exact():
            their_loss = trainer.compute_loss(trainer.model, drawn)
            their_loss.backward()
            now = logps(policy, rows)
            update = Update(now.policy, then.policy, now.mask, targets.advantages)
            found = method.loss(update)
            found.losses.mean().backward()
        assert found.losses.mean().item() == pytest.approx(their_loss.item(), abs=10 * tolerance)
        theirs, mine = gradients(trainer.model), gradients(policy)
        for name, gradient in theirs.items():
            largest = gradient.abs().max().item()
            assert largest > 0.0, name
            torch.testing.assert_close(mine[name], gradient, rtol=0, atol=50 * tolerance * largest)
        clipped.append(found.metrics["clip_share"].mean().item())
        assert trainer._metrics["train"]["clip_ratio/region_mean"][-1] == pytest.approx(clipped[-1])
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter -= 0.01 * parameter.grad
            policy.load_state_dict(trainer.model.state_dict())
        trainer.model.zero_grad()
        policy.zero_grad()
    assert clipped[0] == 0.0 < clipped[-1] < 1.0
