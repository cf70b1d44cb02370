"""Binary CRINGE on a worked example of two answers of three tokens over a vocabulary of five, and on ParlAI's rule."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad, softplus

from epsilon_dpo.methods.interface import Logps, nll
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError

CHOSEN = [[0.5, -0.2, 1, 0.3, 0], [1.1, 0.4, -0.6, 0.2, -1], [0, 0.9, 0.1, -0.4, 1.3]]
REJECTED = [[1, 0.2, -0.5, 2, 0.1], [0.3, 1.5, -1, 0, 0.9], [2.2, -0.3, 0.4, 1.1, -2]]
Y_CHOSEN, Y_REJECTED, OTHERS = [0, 1, 0], [3, 4, 0], [0, 1, 3]  # OTHERS: the likeliest tokens that are not Y_REJECTED
CE, CR = 5.1984026667, 3.1380849631
GRADIENT = [-0.731059, 0, 0, 0.731059, 0, 0, -0.354344, 0, 0, 0.354344, 0.750260, 0, 0, -0.750260, 0]  # d CR / d X


def method(**config):
    return method_of("c", {"method": "binary_cringe", "alpha": 0.5, "k": 1, **config})


def scored(answers: Sequence[tuple[Tensor, list[int], list[int]]]) -> Logps:
    """One side of a batch from (logits [T, V], y [T], alternatives [T]) per answer, padded to the longest."""
    longest = max(len(y) for _, y, _ in answers)
    rows = []
    for logits, y, others in answers:
        logps = logits.log_softmax(-1)
        of_y, of_others = (pad(logps[range(len(y)), ids], (0, longest - len(y))) for ids in (y, others))
        rows.append((of_y, of_others, torch.arange(longest) < len(y)))
    policy, alternative, mask = (torch.stack(column) for column in zip(*rows, strict=True))
    tokens = mask.sum(-1)
    return Logps(
        policy.sum(-1),
        tokens,
        mean_tokens=tokens.double().mean().item(),
        policy_tokens=policy,
        alternative_tokens=alternative,
        mask=mask,
    )


def example(dtype=torch.float64):
    """Both sides of the example and the rejected logits; a pair with an empty rejected answer is beside it."""
    x = torch.tensor(REJECTED, dtype=dtype, requires_grad=True)
    up = torch.tensor(CHOSEN, dtype=dtype, requires_grad=True)
    chosen = scored([(up, Y_CHOSEN, [1, 0, 1]), (up[:2], Y_CHOSEN[:2], [1, 0])])
    return chosen, scored([(x, Y_REJECTED, OTHERS), (x[:0], [], [])]), x


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_worked_example(dtype, tolerance):
    chosen, rejected, x = example(dtype)
    loss = method(sft_reduction="sum").loss(chosen, rejected)
    assert loss.metrics["nll_loss"][0].item() == pytest.approx(CE, rel=tolerance)
    assert loss.metrics["cringe_loss"].tolist() == pytest.approx([CR, 0.0], rel=tolerance, abs=0.0)
    assert loss.losses[0].item() == pytest.approx(6.7674451482, rel=tolerance)
    (loss.losses[0] / 0.5).backward()
    # The specification prints six decimals; the contrast pulls the alternative up as far as it pushes y down.
    assert x.grad.flatten().tolist() == pytest.approx(GRADIENT, abs=max(tolerance, 6e-7))
    assert loss.losses.dtype == loss.metrics["cringe_loss"].dtype == dtype
    assert not any(metric.requires_grad for metric in loss.metrics.values())
    rewards = torch.stack([loss.chosen_rewards, loss.rejected_rewards])
    assert rewards.tolist() == [chosen.policy.tolist(), rejected.policy.tolist()] and not rewards.requires_grad


def test_the_reductions_divide_by_the_tokens_of_both_answers():
    chosen, rejected, _ = example()
    sums = method(sft_reduction="sum").loss(chosen, rejected).losses.tolist()
    per_pair, per_token = method(), method(sft_reduction="token_mean")
    assert per_pair.loss(chosen, rejected).losses[0].item() == pytest.approx(1.1279075247, rel=1e-9)
    assert per_pair.loss(chosen, rejected).losses.tolist() == pytest.approx([sums[0] / 6, sums[1] / 2])
    # Two pairs with 8 tokens together: their mean is the sum over all tokens, divided by 8.
    assert per_token.loss(chosen, rejected).losses.mean().item() == pytest.approx(sum(sums) / 8)
    for each in (per_pair, per_token):
        loss = each.loss(chosen, rejected)
        together = loss.metrics["nll_loss"] + 0.5 * loss.metrics["cringe_loss"]
        assert loss.losses.tolist() == pytest.approx(together.tolist())


@pytest.mark.parametrize("reduction", ["sum", "token_mean"])
def test_without_the_contrast_it_is_sft(reduction):
    chosen, rejected, x = example()
    losses = method(alpha=0.0, sft_reduction=reduction).loss(chosen, rejected).losses
    # token_mean spreads the same sum over the rejected tokens too.
    share = 1.0 if reduction == "sum" else chosen.mean_tokens / (chosen.mean_tokens + rejected.mean_tokens)
    assert losses.tolist() == pytest.approx((nll(chosen, reduction) * share).tolist())
    losses.sum().backward()
    assert not x.grad.any()


@pytest.mark.parametrize("reduction", ["mean", "sum", "token_mean"])
def test_one_pair_of_empty_answers_is_zero(reduction):
    x = torch.zeros(0, 5, requires_grad=True)
    empty = scored([(x, [], [])])
    loss = method(sft_reduction=reduction).loss(empty, empty)
    loss.losses.sum().backward()
    assert loss.losses.tolist() == [0.0] and loss.metrics["cringe_loss"].tolist() == [0.0]


def test_far_logits_stay_finite_and_exact_in_float32():
    x = torch.tensor([[500.0, -500.0], [-500.0, 500.0]], requires_grad=True)
    rejected = scored([(x, [0, 0], [1, 1])])  # the first y is certain, the second impossible
    losses = method(alpha=1.0, sft_reduction="sum").loss(scored([(x.detach()[:0], [], [])]), rejected).losses
    losses.sum().backward()
    assert losses.item() == 1000.0 and x.grad.tolist() == [[1.0, -1.0], [0.0, 0.0]]


def parlai(logits: Tensor, y: Tensor, negative: Tensor, alpha: float) -> Tensor:
    """The loss of ParlAI's projects/cringe with one alternative, over [N, V] logits of all target tokens together.

    The candidates are the two likeliest tokens. y itself gets no probability; where y is not among them, the second
    gets none. Cross-entropy, on the tokens of the chosen answers alone, is added to alpha times the contrast on the
    others.
    """
    top = logits.topk(2, dim=-1)
    is_y = top.indices == y[:, None]
    scores = top.values - 1e10 * is_y
    scores[:, 1] -= 1e10 * ~is_y.any(-1)
    drawn = torch.distributions.Categorical(logits=scores).sample()
    contrast = softplus(logits.gather(1, y[:, None]) - top.values.gather(1, drawn[:, None]))[:, 0]
    ce = cross_entropy(logits, y, reduction="none")
    return torch.where(negative, alpha * contrast, ce).sum() / len(y)


def test_the_loss_of_unequal_answers_is_parlais():
    generator = torch.Generator().manual_seed(5)
    lengths = [(7, 30), (12, 0), (1, 19)]  # chosen and rejected of three pairs
    sides = []
    for side in (0, 1):
        logits = [torch.randn(pair[side], 6, dtype=torch.float64, generator=generator) for pair in lengths]
        sides.append([(x.requires_grad_(), torch.randint(6, (len(x),), generator=generator)) for x in logits])
    likeliest = [x.detach().scatter(1, y[:, None], -torch.inf).argmax(-1) for x, y in sides[1]]
    rejected = [(x, y.tolist(), o.tolist()) for (x, y), o in zip(sides[1], likeliest, strict=True)]
    chosen = scored([(x, y.tolist(), y.tolist()) for x, y in sides[0]])
    ours = method(alpha=0.7, sft_reduction="token_mean").loss(chosen, scored(rejected)).losses.mean()
    leaves, ys = zip(*sides[0], *sides[1], strict=True)
    negative = torch.arange(sum(map(sum, lengths))) >= sum(w for w, _ in lengths)
    theirs = parlai(torch.cat(leaves), torch.cat(ys), negative, 0.7)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    for got, expected in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True):
        assert torch.allclose(got, expected, rtol=1e-9, atol=1e-15)


def test_it_asks_for_its_alternatives_and_for_no_reference():
    asked = method(k=5)
    assert asked.alternatives == 5 and not asked.needs_reference
    with pytest.raises(ValueError, match="hold no `alternative_tokens`"):
        asked.loss(Logps(torch.zeros(1), torch.ones(1)), Logps(torch.zeros(1), torch.ones(1)))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"alpha": -0.1}, r"runs\.c\.alpha = -0.1 is refused"),
        ({"k": 0}, r"runs\.c\.k = 0 is refused"),
        ({"sft_reduction": "token"}, r"runs\.c\.sft_reduction = 'token' is refused"),
        ({"tau": 1.0}, r"unknown key 'runs\.c\.tau'"),
    ],
)
def test_meaningless_config_is_refused(config, sentence):
    with pytest.raises(UserError, match=sentence):
        method(**config)
