"""What is said of a generation's answers against dense logits, and the estimators of its KL by hand."""

import pytest
import torch
from accelerate import Accelerator

from epsilon_dpo.methods.online import Answers
from epsilon_dpo.models.logps.head import add_logps_head
from epsilon_dpo.training.alignment.reference_model import SeparateModel
from epsilon_dpo.training.online.answer_logps import AnswerLogps, AnswerTokens, ValueHead
from epsilon_dpo.training.online.rollouts import _metrics

ROWS = [([1, 5, 9], [7, 11, 40, 2]), ([1, 6], [13, 2])]


@torch.no_grad()
def test_both_kls_log_probs_and_values_are_those_of_dense_logits(tiny_gemma):
    """Two models far apart, so that KL(pi || rho) and KL(rho || pi) cannot be taken for each other."""
    policy, reference, accelerator = tiny_gemma(0), tiny_gemma(1), Accelerator(cpu=True)
    dense = []
    for prompt, answer in ROWS:
        ids = torch.tensor([prompt + answer])
        places = slice(len(prompt) - 1, -1)
        pi, rho = (m(ids).logits[0, places].double().log_softmax(-1) for m in (policy, reference))
        taken = torch.tensor(answer)[:, None]
        hidden = policy.model(ids).last_hidden_state[0, places]
        dense.append((pi, rho, taken, hidden))
    head = ValueHead(32, policy.lm_head.weight)
    torch.nn.init.normal_(head.linear.weight)
    for model in (policy, reference):
        add_logps_head(model)
    found = AnswerLogps(head, 3, 0, accelerator)(policy, ROWS, SeparateModel(reference, accelerator))
    for row, (pi, rho, taken, hidden) in enumerate(dense):
        n = len(taken)
        expected = {
            "policy": pi.gather(1, taken)[:, 0],
            "reference": rho.gather(1, taken)[:, 0],
            "kl_rev": (pi.exp() * (pi - rho)).sum(1),
            "kl_fwd": (rho.exp() * (rho - pi)).sum(1),
            "entropy": -(pi.exp() * pi).sum(1),
            "values": head(hidden).double(),
        }
        assert (expected["kl_rev"] - expected["kl_fwd"]).abs().min() > 1e-3
        for name, value in expected.items():
            own = getattr(found, name)[row]
            assert own[:n].tolist() == pytest.approx(value.tolist(), abs=2e-5), name
            assert not own[n:].any(), "nothing beyond the end"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_value_head_is_float32_at_least(dtype):
    """In bfloat16 the small steps of its training would be lost."""
    head = ValueHead(4, torch.ones(3, 4, dtype=dtype))
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert {weight.dtype for weight in (*head.parameters(), head(torch.ones(2, 4, dtype=dtype)))} == {expected}


def test_the_estimators_of_one_answer_by_hand():
    """d = .2, -.1, -.5: the sampled log-ratio may be below 0, exp(-d) - 1 + d and the exact KL may not."""
    change = torch.tensor([[0.2, -0.1, -0.5]], dtype=torch.float64)
    kl = torch.tensor([[0.0229896414, 0.0924351713, -1e-9]], dtype=torch.float64)
    mask = torch.ones(1, 3, dtype=torch.bool)
    answers = Answers(torch.ones(1).double(), change, torch.zeros_like(change), mask, torch.tensor([True]))
    tokens = AnswerTokens(mask, change, torch.ones_like(change), None, answers.reference, kl_rev=kl, kl_fwd=2.0 * kl)
    found = {name: value.item() for name, value in _metrics(answers, tokens, 1).items()}
    assert found["kl/rev_k1"] == pytest.approx(-0.4, rel=1e-9)
    assert found["kl/rev_k3"] == pytest.approx(0.1726229419, rel=1e-9)
    assert found["kl/rev"] == pytest.approx(0.1154248127, rel=1e-9) and found["kl/fwd_own"] == 2.0 * found["kl/rev"]
    assert found["entropy"] == pytest.approx(1.0) and found["tokens/answer"] == 3.0 and found["truncated"] == 0.0
