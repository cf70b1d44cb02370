"""ε-DPO's decisions while the policy is close to its reference, where sums of log-probs cannot tell them.

64 pairs whose sums lie near -900 nats, a policy that is its reference moved by one step of random signs, and the
decisions that the same models make in float64 as the truth.
"""

import copy
from functools import cache

import pytest
import torch
from torch import Tensor
from transformers import Gemma2Config, Gemma2ForCausalLM

from epsilon_dpo.methods.epsilon_dpo import epsilon_steps
from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.models.logps.head import add_logps_head, head_of
from epsilon_dpo.models.logps.kernel import Head, Reference, TokenLogps, token_logps

pytestmark = pytest.mark.numeric
PAIRS, PROMPT, ANSWER, VOCAB = 64, 16, 144, 512
STEPS, EPSILONS = (1e-7, 1e-6, 1e-5, 1e-4), (0.005, 0.02)


@cache
def reference() -> Gemma2ForCausalLM:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        query_pre_attn_scalar=16,
        max_position_embeddings=256,
        sliding_window=128,
        initializer_range=0.06,
        attn_implementation="eager",
    )
    return Gemma2ForCausalLM(config).eval()


def moved(step: float) -> Gemma2ForCausalLM:
    """Each weight of the reference plus or minus `step`."""
    policy = copy.deepcopy(reference())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += step * torch.randn(weight.shape, generator=generator).sign()
    return policy


def batch() -> dict[str, Tensor]:
    """Chosen answers, then rejected ones after the same prompts."""
    ids = torch.randint(6, VOCAB, (2 * PAIRS, PROMPT + ANSWER), generator=torch.Generator().manual_seed(2))
    ids[PAIRS:, :PROMPT] = ids[:PAIRS, :PROMPT]
    completion = torch.ones_like(ids)
    completion[:, :PROMPT] = 0
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": completion}


@cache
@torch.no_grad()
def states(step: float, double: bool) -> Reference:
    """What predicts the answers' tokens under the reference moved by `step`; 0.0: the reference itself."""
    model = copy.deepcopy(moved(step) if step else reference())
    model = model.double() if double else model
    add_logps_head(model)
    return Reference(model(**batch()), head_of(model))


@torch.no_grad()
def scored(step: float, double: bool, epsilon: float, precision: str) -> TokenLogps:
    """[2 PAIRS, ANSWER] each, chosen answers first."""
    hidden, head = states(step, double)
    labels = batch()["input_ids"][:, PROMPT:].flatten()
    found = token_logps(hidden, head, labels, 512, states(0.0, double), epsilon, precision)
    return TokenLogps._make(None if x is None else x.unflatten(0, (2 * PAIRS, ANSWER)) for x in found)


def margin(tokens: Tensor) -> Tensor:
    chosen, rejected = tokens.double().sum(1).chunk(2)
    return chosen - rejected


def exact(found: TokenLogps) -> Tensor:
    """As the method decides."""
    sums = {name: x.double().sum(1) for name, x in found._asdict().items() if x is not None}
    tokens = torch.full((PAIRS,), ANSWER)
    chosen, rejected = (Logps(tokens=tokens, **{n: x.chunk(2)[side] for n, x in sums.items()}) for side in (0, 1))
    entry = {"method": "epsilon_dpo", "beta": 0.1, "epsilon": 0.01, "step_precision": "exact"}
    return method_of("x", entry).loss(chosen, rejected).metrics["eps/mean_step"]


@pytest.mark.parametrize(("step", "wrong"), list(zip(STEPS, (4, 0, 0, 0), strict=True)))
def test_decisions_are_those_of_float64(step: float, wrong: int) -> None:
    for epsilon in EPSILONS:
        truth = exact(scored(step, True, epsilon, "exact"))
        assert min((truth == s).sum() for s in (1, -1)) >= 10, "both decisions occur"
        decided = exact(scored(step, False, epsilon, "exact"))
        assert (decided != truth).sum() <= wrong


def test_sums_cannot_tell_them() -> None:
    """What the definition gives in float32, its tokens summed in float64, one step of 1e-6 away: why `exact` exists."""
    truth = exact(scored(1e-6, True, 0.01, "exact"))
    found = scored(1e-6, False, 0.01, "fp32")
    assert found.delta_minus is None
    z, z_minus, z_plus = (margin(x) for x in (found.policy, found.logps_beta_minus, found.logps_beta_plus))
    assert -1000 < found.policy.sum(1).mean() < -800
    assert (epsilon_steps(z, z_minus, z_plus) != truth).sum() > 10


def test_in_float64_both_forms_agree() -> None:
    one, other = (scored(1e-5, True, 0.01, precision) for precision in ("exact", "fp32"))
    for name in ("minus", "plus"):
        perturbed = getattr(other, f"logps_beta_{name}")
        assert getattr(one, f"logps_beta_{name}") is None
        torch.testing.assert_close(getattr(one, f"delta_{name}"), perturbed - other.policy, rtol=0, atol=1e-12)


@pytest.mark.parametrize("softcap", [30.0, None])
def test_equal_models_tie(softcap: float | None) -> None:
    hidden, head = states(0.0, False)
    same = Head(head.weight, None, softcap)
    labels = batch()["input_ids"][:, PROMPT:].flatten()
    found = token_logps(hidden, same, labels, 512, Reference(hidden, same), 0.01, "exact")
    assert not found.delta_minus.any() and not found.delta_plus.any()
