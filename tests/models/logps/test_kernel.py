"""What single methods ask of the head (drawn alternatives, bfloat16 rounding, two references), what it promises to all
(decisions, memory, logits of any size), and its compiled form.
"""

import logging

import pytest
import torch
from torch.nn.functional import log_softmax
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from epsilon_dpo.models.logps import kernel as logps_kernel
from epsilon_dpo.models.logps import tiles as logps_tiles
from epsilon_dpo.models.logps.head import Scoring, add_logps_head, head_of
from epsilon_dpo.models.logps.kernel import Alternatives, Head, Reference, token_logps
from epsilon_dpo.models.logps.tiles import compiled_on_gpu, is_bounded, of_policy

pytestmark = pytest.mark.numeric

N, H, V = 29, 8, 50


def problem(softcap=5.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    return draw(N, H), Head(2 * draw(V, H), draw(V), softcap), torch.randint(V, (N,), generator=generator)


def logits(hidden, head):
    raw = hidden @ head.weight.T + head.bias
    return raw if head.softcap is None else head.softcap * torch.tanh(raw / head.softcap)


def alternatives(k, seed=0):
    return Alternatives(k, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("token_chunk", "vocab_tile"), [(1, 7), (10, V), (N, 1)])
def test_the_only_alternative_is_the_likeliest_other_word(token_chunk, vocab_tile):
    """Values and gradients, also where the label itself is the likeliest token."""
    hidden, head, labels = problem()
    with torch.no_grad():
        labels[::2] = logits(hidden, head)[::2].argmax(1)
    leaves, grads, found = [hidden, head.weight, head.bias], [], []
    weights = torch.randn(2, N, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    for ours in (False, True):
        for leaf in leaves:
            leaf.requires_grad_().grad = None
        if ours:
            tokens = token_logps(hidden, head, labels, token_chunk, alternatives=alternatives(1), vocab_tile=vocab_tile)
            pair = tokens.policy, tokens.alternative
        else:
            logp = log_softmax(logits(hidden, head), dim=1)
            others = logp.detach().scatter(1, labels[:, None], -torch.inf).argmax(1)
            pair = logp.gather(1, labels[:, None])[:, 0], logp.gather(1, others[:, None])[:, 0]
        (weights[0] * pair[0] + weights[1] * pair[1].exp()).sum().backward()
        grads.append([leaf.grad for leaf in leaves])
        found.append([x.detach() for x in pair])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(grads[1], grads[0], rtol=0, atol=1e-12)


def test_alternatives_are_drawn_in_proportion_to_their_probability():
    """20,000 draws from one distribution: the 3 likeliest tokens but the label, as often as their softmax says."""
    head = Head(torch.tensor([[2.0], [1.0], [0.5], [1.5], [-1.0]], dtype=torch.float64))
    count = 20_000
    hidden, labels = torch.ones(count, 1, dtype=torch.float64), torch.full((count,), 3)
    tokens = token_logps(hidden, head, labels, 4096, alternatives=alternatives(3), vocab_tile=2)
    logp = log_softmax(head.weight[:, 0], dim=0)
    expected = torch.softmax(head.weight[:3, 0], dim=0)
    for token, share in enumerate(expected.tolist()):
        drawn = (tokens.alternative - logp[token]).abs().lt(1e-12).double().mean().item()
        assert drawn == pytest.approx(share, abs=4 * (share * (1 - share) / count) ** 0.5), token
    again = token_logps(hidden, head, labels, 100, alternatives=alternatives(3), vocab_tile=5)
    other = token_logps(hidden, head, labels, 100, alternatives=alternatives(3, seed=1), vocab_tile=5)
    assert torch.equal(tokens.alternative, again.alternative) and not torch.equal(again.alternative, other.alternative)


def test_more_alternatives_than_words_are_all_the_others():
    hidden, head, labels = problem()
    tokens = token_logps(hidden, head, labels, 7, alternatives=alternatives(V + 3), vocab_tile=11)
    assert tokens.alternative.isfinite().all() and (tokens.alternative != tokens.policy).all()


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_rounding_is_that_of_bfloat16_operations_on_a_gpu(softcap):
    """Each operation exact inside, in float32, and rounded once; the policy's gradient is that of rounded logits."""
    bf16 = lambda x: x.to(torch.bfloat16).float()  # noqa: E731
    hidden, head, labels = problem(softcap, torch.float32)
    other = Head(head.weight.flip(0), head.bias, softcap)

    def rounded(head):
        x = bf16(hidden @ head.weight.T + head.bias)
        return x if softcap is None else bf16(bf16(torch.tanh(bf16(x / softcap))) * softcap)

    f, g, epsilon = rounded(head), rounded(other), 0.1
    low = bf16(bf16((1 + epsilon) * f) - bf16(epsilon * g))
    high = bf16(bf16((1 - epsilon) * f) + bf16(epsilon * g))
    pick = lambda q: bf16(q.gather(1, labels[:, None])[:, 0] - q.logsumexp(1))  # noqa: E731
    hidden.requires_grad_()
    found = token_logps(
        hidden, head, labels, 7, Reference(hidden.detach(), other), epsilon, "official_bf16", vocab_tile=13
    )
    for name, q in (("policy", f), ("reference", g), ("logps_beta_minus", low), ("logps_beta_plus", high)):
        assert torch.equal(getattr(found, name).detach(), pick(q)), name
    found.policy.sum().backward()
    delta = -f.softmax(1)
    delta[torch.arange(N), labels] += 1
    if softcap is not None:
        delta = delta * (1 - (f / softcap) ** 2)
    torch.testing.assert_close(hidden.grad, delta @ head.weight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
def test_gradients_under_autocast_are_sums_over_all_tiles(device):
    """The hidden states' over those of the vocabulary, the weight's over those of the tokens; within bfloat16."""
    _, head, labels = problem(None, torch.float32)
    gradients = []
    for token_chunk, vocab_tile in ((N, V), (7, 13)):
        hidden = problem(None, torch.float32)[0].to(device).requires_grad_()
        weight, bias = (x.detach().to(device).requires_grad_() for x in (head.weight, head.bias))
        with torch.autocast(device, torch.bfloat16):
            found = token_logps(hidden, Head(weight, bias), labels.to(device), token_chunk, vocab_tile=vocab_tile)
        found.policy.sum().backward()
        gradients.append([leaf.grad for leaf in (hidden, weight, bias)])
    for whole, tiled in zip(*gradients, strict=True):
        torch.testing.assert_close(tiled, whole, rtol=0.0, atol=0.05 * whole.abs().max().item())


def test_on_a_gpu_a_product_is_added_to_what_is_there(monkeypatch):
    """As on a CPU, which lacks the form of addmm that keeps sums of bfloat16 products in float32."""

    class OnGPU(torch.Tensor):
        is_cuda = True

    def addmm(total, left, right, *, out_dtype, out):
        return out.copy_(total + left.to(out_dtype) @ right.to(out_dtype))

    monkeypatch.setattr(torch, "addmm", addmm)
    left, right = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).bfloat16(), torch.ones(2, 2).bfloat16()
    for kind in (torch.Tensor, OnGPU):
        total = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).as_subclass(kind)
        logps_kernel._add_product(total, left, right)
        assert total.tolist() == [[2.0, 3.0], [5.0, 6.0]]


def test_the_kl_is_that_of_the_initial_reference(tiny_gemma):
    """The log-prob under the moved one, both KLs and one more log-prob of the one before."""
    policy, moved, initial = (tiny_gemma(seed).double() for seed in range(3))
    for model in (policy, moved, initial):
        add_logps_head(model)
    ids = torch.tensor([[1, 5, 6, 7, 2]])
    rows = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": torch.tensor([[0, 0, 1, 1, 1]]),
    }
    with torch.no_grad():
        states = [Reference(model(**rows), head_of(model)) for model in (moved, initial)]
        both = policy(**rows, scoring=Scoring(2, states[0], initial=states[1]))
        alone = policy(**rows, scoring=Scoring(2, states[1]))
    assert torch.equal(both.kl_ref_policy, alone.kl_ref_policy) and alone.initial is None
    assert torch.equal(both.kl_policy_ref, alone.kl_policy_ref)
    assert torch.equal(both.initial, alone.reference)
    assert not torch.equal(both.reference, both.initial)


def perturbed(tokens):
    """The log-probs under both mixtures, [N] each, from whatever was computed of them."""
    if tokens.delta_minus is None:
        return tokens.logps_beta_minus, tokens.logps_beta_plus
    return tuple(tokens.policy.detach() + delta for delta in (tokens.delta_minus, tokens.delta_plus))


def mixed_logps(f, g, labels, epsilon):
    """Log-probs under policy, reference and both mixtures from whole logits."""
    mixtures = (f, g, (1 + epsilon) * f - epsilon * g, (1 - epsilon) * f + epsilon * g)
    return [log_softmax(x, dim=1).gather(1, labels[:, None])[:, 0] for x in mixtures]


@pytest.mark.parametrize("precision", ["exact", "fp32"])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_decisions_are_those_of_whole_logits(softcap, precision):
    """6,000 pairs of answers of 1 to 8 tokens: z under the policy against z under both mixtures, as ε-DPO compares."""
    generator = torch.Generator().manual_seed(11)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    pairs, epsilon = 6000, 0.05
    answer = torch.arange(2 * pairs).repeat_interleave(torch.randint(1, 9, (2 * pairs,), generator=generator))
    head, other = (Head(draw(V, H), draw(V), softcap) for _ in range(2))
    hidden, labels = draw(len(answer), H), torch.randint(V, answer.shape, generator=generator)
    reference = Reference(hidden + 0.3 * draw(len(answer), H), other)
    tokens = token_logps(hidden, head, labels, 1013, reference, epsilon, precision, vocab_tile=17)
    whole = mixed_logps(logits(hidden, head), logits(reference.hidden, other), labels, epsilon)
    decisions = []
    tiled = (tokens.policy, tokens.reference, *perturbed(tokens))
    for policy, _, low, high in (whole, tiled):
        sums = [torch.zeros(2 * pairs, dtype=torch.float64).index_add(0, answer, x) for x in (policy, low, high)]
        z, z_minus, z_plus = (x[:pairs] - x[pairs:] for x in sums)
        decisions.append(((z_minus > z) & (z > z_plus)).int() - ((z_plus > z) & (z > z_minus)).int())
    assert torch.equal(*decisions)
    assert {-1, 0, 1} == set(decisions[0].tolist())


@pytest.mark.parametrize("softcap", [None, 30.0, 60.0])
@pytest.mark.parametrize("bias", [0.0, 3000.0])
def test_logits_of_any_size_neither_overflow_nor_lose_a_tie(softcap, bias):
    """In float32, with logits apart by thousands of nats; a soft-cap of 60 is too wide for plain sums there."""
    dtype, epsilon = torch.float32, 0.3
    bounded = is_bounded([softcap, softcap], epsilon, V, dtype)
    assert bounded == (softcap == 30.0)
    hidden, head, labels = problem(softcap, dtype)
    head = Head(30 * head.weight, head.bias + bias, softcap)
    others = (head, Head(head.weight.flip(0), head.bias, softcap))
    for other in others:
        found = token_logps(hidden, head, labels, 7, Reference(hidden, other), epsilon, "fp32", vocab_tile=13)
        f, g = (logits(hidden, x).double() for x in (head, other))
        for got, expected in zip(
            (found.policy, found.reference, found.logps_beta_minus, found.logps_beta_plus),
            mixed_logps(f, g, labels, epsilon),
            strict=True,
        ):
            torch.testing.assert_close(got.double(), expected, rtol=3e-6, atol=1e-3 if bias else 3e-5)
        if other is head:
            assert torch.equal(found.policy, found.reference) and torch.equal(found.policy, found.logps_beta_plus)
            assert torch.equal(found.policy, found.logps_beta_minus)


class LargestTensor(TorchDispatchMode):
    """Values in the largest tensor that an operation returned."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.size = max(self.size, leaf.numel())
        return result


@pytest.mark.parametrize("precision", ["exact", "fp32"])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("vocab", [1000, 4000])
def test_logits_never_exist_all_at_once(softcap, vocab, precision):
    """Forward and backward, with everything asked for: a tile at most, and backward the weight's gradient."""
    generator = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    tokens, width, chunk, tile = 60, 3, 16, 64
    head, other = (Head(draw(vocab, width), draw(vocab), softcap) for _ in range(2))
    hidden, labels = draw(tokens, width), torch.randint(vocab, (tokens,), generator=generator)
    for leaf in (hidden, head.weight, head.bias):
        leaf.requires_grad_()
    with LargestTensor() as largest:
        found = token_logps(
            hidden, head, labels, chunk, Reference(draw(tokens, width), other), 0.1, precision, alternatives(3), tile
        )
        forward = largest.size
        (found.policy + found.alternative).sum().backward()
    assert forward == chunk * tile
    assert largest.size == vocab * width < tokens * vocab / 10
    with LargestTensor() as whole:
        log_softmax(logits(hidden, head), dim=1)[:, 0].sum().backward()
    assert whole.size == tokens * vocab


def tile(generator):
    return 20 * torch.tanh(torch.randn(6, 33, generator=generator))


def same_parts(got, expected):
    for part, other in zip(got, expected, strict=True):
        for x, y in zip(tree_leaves(part), tree_leaves(other), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("bounded", [True, False])
def test_the_compiled_form_is_whole_and_the_same_and_ties(backend, bounded):
    """What runs on a GPU, here compiled for the CPU: no graph break, the same sums, equal sums for equal logits."""
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(4)
    f, g = tile(generator), tile(generator)
    compiled = lambda function: torch.compile(function.__wrapped__, fullgraph=True, backend=backend)  # noqa: E731
    pair = compiled(logps_tiles._of_pair)
    same_parts(pair(f, g, 0.1, bounded), logps_tiles._of_pair(f, g, 0.1, bounded))
    assert len({tuple(part.sum.tolist()) for part in pair(f, f.clone(), 0.1, bounded)}) == 1
    same_parts([compiled(of_policy)(f, bounded)], [of_policy(f, bounded)])

    rest = f.logsumexp(1), f[:, 0] + 1, [(torch.arange(6), f[:, 1].clone())], 20.0
    gradient = compiled(logps_tiles.gradient_of_raw)(f.clone(), *rest)
    torch.testing.assert_close(gradient, logps_tiles.gradient_of_raw(f.clone(), *rest), rtol=1e-5, atol=1e-5)
    raw = f.bfloat16(), g[0].bfloat16(), 5.0, torch.float32
    torch.testing.assert_close(compiled(logps_tiles._capped)(*raw), logps_tiles._capped(*raw), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("bounded", "small"), [(True, True), (True, False), (False, False)])
def test_the_exact_form_keeps_its_digits_compiled(bounded, small):
    """By aot_eager: inductor's code for a CPU computes expm1 as exp - 1, Triton's for a GPU calls libdevice's expm1."""
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(4)
    f = tile(generator)
    g = f + 1e-4 * torch.randn(f.shape, generator=generator)
    pair = torch.compile(logps_tiles._of_pair.__wrapped__, fullgraph=True, backend="aot_eager")
    arguments = f, g, 0.01, bounded, True, small
    found, expected = pair(*arguments)[0], logps_tiles._of_pair(*arguments)[0]
    change = 0.01 * (f - g).double()
    total = (f.double() if bounded else f.double() - f.amax(1, keepdim=True).double()).exp()
    for part in (found, expected):
        for got, sign in zip(part.weighted[2:], (1, -1), strict=True):
            truth = (total * (sign * change).expm1()).sum(1)
            torch.testing.assert_close(got.double(), truth, rtol=1e-4, atol=float(total.sum(1).max()) * 1e-12)


def test_a_quotient_serves_for_small_changes_only():
    """Both logits within 30 nats of 0: 0.6 nats at most at ε = .01, where both forms agree to their rounding."""
    assert logps_tiles.is_small([30.0, 30.0], 0.01) and not logps_tiles.is_small([30.0, 30.0], 0.04)
    assert not logps_tiles.is_small([30.0, None], 0.01)
    generator = torch.Generator().manual_seed(4)
    f, g = (30 * torch.tanh(2 * torch.randn(6, 33, generator=generator)) for _ in range(2))
    both = [logps_tiles._of_pair(f, g, 0.01, True, True, small)[0].weighted[2:] for small in (True, False)]
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=0.0)
    assert not torch.equal(both[0][0], both[1][0])


@pytest.mark.parametrize("softcap", [None, 30.0])
def test_exact_changes_of_any_size_are_finite_and_right_where_they_matter(softcap):
    """Also where one improbable token's logits lie far apart, which a quotient by 1 + expm1 turned into infinities."""
    f, g = torch.tensor([[3.0, 20.0, 1.0, -110.0]]), torch.tensor([[2.0, -18.0, 0.0, -160.0]])
    labels = torch.tensor([0])

    def scored(dtype, epsilon, precision):
        eye = Head(torch.eye(4, dtype=dtype), None, softcap)
        return token_logps(f.to(dtype), eye, labels, 1, Reference(g.to(dtype), eye), epsilon, precision)

    for epsilon in (0.01, 0.3, 0.5):
        low, high = scored(torch.float32, epsilon, "exact"), scored(torch.float64, epsilon, "fp32")
        for name in ("minus", "plus"):
            expected = getattr(high, f"logps_beta_{name}") - high.policy
            found = getattr(low, f"delta_{name}").double()
            assert found.isfinite().all() and (found.sign() == expected.sign()).all()
            if expected.abs().max() < 10.0:  # a mean of exp below 5e-5 is near the rounding of 1
                torch.testing.assert_close(found, expected, rtol=1e-5 if epsilon == 0.01 else 1e-2, atol=1e-6)


def test_what_cannot_be_compiled_runs_as_it_is_after_one_warning(monkeypatch, caplog):
    class OnGPU:
        is_cuda = True

    def fails(*args):
        raise RuntimeError("no Triton here")

    compilations = []
    monkeypatch.setattr(torch, "compile", lambda function, **settings: compilations.append(function) or fails)
    function = compiled_on_gpu(lambda x, y: y + 1)
    with caplog.at_level(logging.WARNING):
        assert [function(OnGPU(), y) for y in (1, 2)] == [2, 3]
        assert function(torch.zeros(()), 3) == 4
    assert len(compilations) == 1 and [record.message for record in caplog.records] == [
        "<lambda> is not compiled and slower: no Triton here"
    ]
