"""What two methods ask of the head beside log-probs: TDPO a KL with a gradient, WPO the sum of squared probabilities.

Both against autograd on whole logits in float64, in any tiling, and what is computed without them stays bit for bit.
"""

import pytest
import torch
from test_kernel import LargestTensor, alternatives, tile

from epsilon_dpo.models.logps import tiles as logps_tiles
from epsilon_dpo.models.logps.head import Scoring, add_logps_head, head_of
from epsilon_dpo.models.logps.kernel import Head, Reference, TokenLogps, token_logps

pytestmark = pytest.mark.numeric

N, H, V = 23, 8, 50
TILINGS = [(5.0, False, 1, 7), (5.0, True, 7, V), (None, True, N + 5, 13), (None, False, 7, V + 1)]


def problem(softcap, bias, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    head = Head(2 * draw(V, H), draw(V) if bias else None, softcap)
    reference = Reference(draw(N, H), Head(2 * draw(V, H), draw(V) if bias else None, softcap))
    return draw(N, H), head, torch.randint(V, (N,), generator=generator), reference, draw(3, N)


def logits(states, head):
    raw = states @ head.weight.T + (0 if head.bias is None else head.bias)
    return raw if head.softcap is None else head.softcap * torch.tanh(raw / head.softcap)


def whole(hidden, head, labels, reference):
    """log-prob, KL(ref || pi) and log sum of squares with all logits at once, [N] each."""
    f, g = logits(hidden, head).log_softmax(-1), logits(*reference).log_softmax(-1)
    return f.gather(1, labels[:, None])[:, 0], (g.exp() * (g - f)).sum(-1), (2 * f).logsumexp(-1)


def leaves_of(hidden, head):
    leaves = [tensor for tensor in (hidden, head.weight, head.bias) if tensor is not None]
    for leaf in leaves:
        leaf.requires_grad_().grad = None
    return leaves


@pytest.mark.parametrize(("softcap", "bias", "token_chunk", "vocab_tile"), TILINGS)
@pytest.mark.parametrize("both", [True, False], ids=["beside a log-prob", "alone"])
def test_the_kls_gradient_is_that_of_whole_logits(softcap, bias, token_chunk, vocab_tile, both):
    hidden, head, labels, reference, weights = problem(softcap, bias)
    found = []
    for compute in (
        lambda: whole(hidden, head, labels, reference)[:2],
        lambda: token_logps(hidden, head, labels, token_chunk, reference, vocab_tile=vocab_tile, kl_gradient=True),
    ):
        leaves = leaves_of(hidden, head)
        values = compute()
        logp, kl = (values.policy, values.kl_ref_policy) if isinstance(values, TokenLogps) else values
        loss = (weights[1] * kl).sum() + (weights[0] * logp).sum() * both
        loss.backward()
        found.append([kl.detach(), *(leaf.grad for leaf in leaves)])
    assert all(x.any() for x in found[0])
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["kl_ref_policy", "policy"])
def test_gradcheck(name):
    hidden, head, labels, reference, _ = problem(5.0, True)
    inputs = (hidden[:5].requires_grad_(), head.weight.requires_grad_(), head.bias.requires_grad_())
    cut = Reference(reference.hidden[:5], reference.head)

    def values(hidden, weight, bias):
        asked = Head(weight, bias, 5.0)
        return getattr(token_logps(hidden, asked, labels[:5], 2, cut, vocab_tile=17, kl_gradient=True), name)

    assert torch.autograd.gradcheck(values, inputs)


def test_three_gradients_at_once_add_up():
    hidden, head, labels, reference, weights = problem(5.0, True)
    names = ("policy", "kl_ref_policy", "alternative")

    def gradients(asked):
        leaves = leaves_of(hidden, head)
        found = token_logps(
            hidden, head, labels, 7, reference, alternatives=alternatives(3), vocab_tile=13, kl_gradient=True
        )
        sum((weights[names.index(name)] * getattr(found, name)).sum() for name in asked).backward()
        return [leaf.grad for leaf in leaves]

    for together, *alone in zip(gradients(names), *(gradients([name]) for name in names), strict=True):
        torch.testing.assert_close(together, sum(alone), rtol=1e-12, atol=1e-12)


def test_equal_models_have_no_kl_and_no_gradient_of_it():
    """In float32, up to the rounding of a probability."""
    hidden, head, labels, _, _ = problem(30.0, True, torch.float32)
    leaves = leaves_of(hidden, head)
    same = Reference(hidden.detach(), Head(head.weight.detach(), head.bias.detach(), head.softcap))
    found = token_logps(hidden, head, labels, 7, same, vocab_tile=13, kl_gradient=True)
    assert not found.kl_ref_policy.any()
    found.kl_ref_policy.sum().backward()
    assert all(leaf.grad.abs().max() < 1e-5 for leaf in leaves)


@pytest.mark.parametrize(("softcap", "bias", "token_chunk", "vocab_tile"), TILINGS)
@pytest.mark.parametrize("with_reference", [True, False])
def test_the_sum_of_squares_is_that_of_whole_logits(softcap, bias, token_chunk, vocab_tile, with_reference):
    hidden, head, labels, reference, _ = problem(softcap, bias)
    expected = whole(hidden, head, labels, reference)[2]
    hidden.requires_grad_()
    given = reference if with_reference else None
    found = token_logps(hidden, head, labels, token_chunk, given, vocab_tile=vocab_tile, sum_sq_probs=True)
    torch.testing.assert_close(found.log_sum_sq_probs, expected, rtol=0, atol=1e-12)
    assert found.policy.requires_grad and not found.log_sum_sq_probs.requires_grad


@pytest.mark.parametrize("softcap", [None, 30.0, 44.0, 60.0])
def test_large_logits_do_not_overflow(softcap):
    """In float32 exp(2 * 44) is a number and the sum over the vocabulary is not: there a maximum is subtracted."""
    hidden, head, labels, _, _ = problem(softcap, True, torch.float32)
    head = Head(30 * head.weight, head.bias + (100.0 if softcap is None else 0.0), softcap)
    found = token_logps(hidden, head, labels, 7, vocab_tile=13, sum_sq_probs=True).log_sum_sq_probs
    wide = Head(head.weight.double(), head.bias.double(), softcap)
    expected = (2 * logits(hidden.double(), wide).log_softmax(-1)).logsumexp(-1)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)


def test_what_is_asked_for_changes_nothing_else():
    """The other values and the gradient of the log-prob, bit for bit."""
    hidden, head, labels, reference, weights = problem(30.0, True, torch.float32)
    runs = []
    for asked in ({}, {"sum_sq_probs": True, "kl_gradient": True}):
        leaves = leaves_of(hidden, head)
        found = token_logps(hidden, head, labels, 7, reference, 0.1, "exact", vocab_tile=13, **asked)
        (found.policy * weights[0]).sum().backward()
        runs.append([*(x for x in found._replace(log_sum_sq_probs=None) if x is not None), *(x.grad for x in leaves)])
        assert (found.log_sum_sq_probs is not None) == found.kl_ref_policy.requires_grad == bool(asked)
    assert len(runs[0]) == len(runs[1]) == 10
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_a_kl_needs_a_reference():
    hidden, head, labels, _, _ = problem(None, False)
    with pytest.raises(ValueError, match="need a reference"):
        token_logps(hidden, head, labels, 7, kl_gradient=True)


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_logits_never_exist_all_at_once(softcap):
    generator = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    tokens, width, chunk, columns, vocab = 60, 3, 16, 64, 2000
    head, other = (Head(draw(vocab, width), draw(vocab), softcap) for _ in range(2))
    hidden, labels = draw(tokens, width), torch.randint(vocab, (tokens,), generator=generator)
    leaves_of(hidden, head)
    given = Reference(draw(tokens, width), other)
    with LargestTensor() as largest:
        found = token_logps(hidden, head, labels, chunk, given, vocab_tile=columns, sum_sq_probs=True, kl_gradient=True)
        forward = largest.size
        (found.policy + found.kl_ref_policy).sum().backward()
    assert forward == chunk * columns
    assert largest.size == vocab * width < tokens * vocab / 10


@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, pytest.mark.campaign])]
)
@pytest.mark.parametrize("bounded", [True, False])
def test_the_compiled_form_is_whole_and_the_same(backend, bounded):
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(4)
    f, g = tile(generator), tile(generator)
    compiled = lambda function: torch.compile(function.__wrapped__, fullgraph=True, backend=backend)  # noqa: E731
    part, expected = compiled(logps_tiles.of_squares)(f, bounded), logps_tiles.of_squares(f, bounded)
    torch.testing.assert_close(part.sum, expected.sum, rtol=1e-5, atol=1e-5)
    rest = f.logsumexp(1), f[:, 0] + 1, [(torch.arange(6), f[:, 1].clone())], 20.0, (g, g.logsumexp(1), f[:, 2].clone())
    gradient = compiled(logps_tiles.gradient_of_raw)(f.clone(), *rest)
    torch.testing.assert_close(gradient, logps_tiles.gradient_of_raw(f.clone(), *rest), rtol=1e-5, atol=1e-5)


def test_a_model_passes_both_on(tiny_gemma):
    """Through the layers below the head, with its soft-cap, in the rows of the batch."""
    policy, other = tiny_gemma(0).double(), tiny_gemma(1).double()
    ids = torch.tensor([[1, 5, 6, 7, 8, 2, 0], [1, 9, 10, 2, 0, 0, 0]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 0, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    f = policy(**inputs).logits[:, :-1].log_softmax(-1)
    g = other(**inputs).logits[:, :-1].log_softmax(-1).detach()
    kl, squares = (g.exp() * (g - f)).sum(-1) * mask[:, 1:], (2 * f).logsumexp(-1) * mask[:, 1:]
    kl.sum().backward()
    expected = {name: parameter.grad for name, parameter in policy.named_parameters()}
    policy.zero_grad()
    for model in (policy, other):
        add_logps_head(model)
    with torch.no_grad():
        reference = Reference(other(**inputs, completion_mask=mask), head_of(other))
    scoring = Scoring(token_chunk=3, reference=reference, sum_sq_probs=True, kl_gradient=True)
    found = policy(**inputs, completion_mask=mask, scoring=scoring)
    torch.testing.assert_close(found.kl_ref_policy, kl.to(found.kl_ref_policy), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.log_sum_sq_probs, squares.to(found.log_sum_sq_probs).detach(), rtol=0, atol=1e-5)
    found.kl_ref_policy.sum().backward()
    for name, parameter in policy.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)
