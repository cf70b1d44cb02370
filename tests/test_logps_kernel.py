"""What single methods ask of the head: drawn alternatives, bfloat16 rounding, two references."""

import pytest
import torch
from torch.nn.functional import log_softmax

from epsilon_dpo.logps import Scoring, add_logps_head, head_of
from epsilon_dpo.logps_kernel import Alternatives, Head, Reference, token_logps

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
    """Values and gradients, also where the label itself is the likeliest word."""
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
    """20,000 tokens of one distribution: the 3 likeliest words other than the label, as often as their softmax says."""
    head = Head(torch.tensor([[2.0], [1.0], [0.5], [1.5], [-1.0]], dtype=torch.float64))
    count = 20_000
    hidden, labels = torch.ones(count, 1, dtype=torch.float64), torch.full((count,), 3)
    tokens = token_logps(hidden, head, labels, 4096, alternatives=alternatives(3), vocab_tile=2)
    logp = log_softmax(head.weight[:, 0], dim=0)
    expected = torch.softmax(head.weight[:3, 0], dim=0)
    for word, share in enumerate(expected.tolist()):
        drawn = (tokens.alternative - logp[word]).abs().lt(1e-12).double().mean().item()
        assert drawn == pytest.approx(share, abs=4 * (share * (1 - share) / count) ** 0.5), word
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
    found = token_logps(hidden, head, labels, 7, Reference(hidden.detach(), other), epsilon, True, vocab_tile=13)
    for name, q in (("policy", f), ("reference", g), ("p_epsilon", low), ("n_epsilon", high)):
        assert torch.equal(getattr(found, name).detach(), pick(q)), name
    found.policy.sum().backward()
    delta = -f.softmax(1)
    delta[torch.arange(N), labels] += 1
    if softcap is not None:
        delta = delta * (1 - (f / softcap) ** 2)
    torch.testing.assert_close(hidden.grad, delta @ head.weight, rtol=1e-5, atol=1e-5)


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
    assert torch.equal(both.tokens.kl_ref_policy, alone.tokens.kl_ref_policy) and alone.initial is None
    assert torch.equal(both.tokens.kl_policy_ref, alone.tokens.kl_policy_ref)
    assert torch.equal(both.initial, alone.tokens.reference)
    assert not torch.equal(both.tokens.reference, both.initial)
