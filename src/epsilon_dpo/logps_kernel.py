"""The tiled projection behind logps.py: hidden states and output weights in, numbers per token out.

Memory: two logits tiles of [token_chunk, VOCAB_TILE] and their temporaries, whatever the number of tokens and words.
Compute: one projection of the policy forward, three in backward (one of them a recomputation), one of the reference.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

VOCAB_TILE = 8192  # words whose logits exist at once: a matter of caches and memory only


@dataclass(frozen=True)
class Head:
    """An output projection: logits = softcap * tanh((hidden @ weight.T + bias) / softcap).

    Attributes:
        weight: [V, H].
        bias: [V] or None.
        softcap: Gemma-2's final_logit_softcapping, or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None


class Reference(NamedTuple):
    """The reference at the policy's N positions; nothing of it gets a gradient."""

    hidden: Tensor  # [N, H']
    head: Head


class Alternatives(NamedTuple):
    """Which other token is scored at each place: one of the policy's `k` likeliest words other than the label, drawn
    in proportion to their probability (Cringe's s*)."""

    k: int
    generator: torch.Generator  # on the CPU, so that every device draws the same


class TokenLogps(NamedTuple):
    """Numbers per completion token, [N] each, in nats; float64 for float64 models, else float32.

    Only `policy` and `alternative` have a gradient.
    """

    policy: Tensor  # log softmax(f)[y]
    entropy: Tensor  # of softmax(f)
    reference: Tensor | None = None  # log softmax(g)[y]
    p_epsilon: Tensor | None = None  # log softmax((1+ε) f - ε g)[y]
    n_epsilon: Tensor | None = None  # log softmax((1-ε) f + ε g)[y]
    kl_ref_policy: Tensor | None = None  # KL(softmax(g) || softmax(f))
    kl_policy_ref: Tensor | None = None  # KL(softmax(f) || softmax(g))
    alternative: Tensor | None = None  # log softmax(f)[the alternative]


def token_logps(
    hidden: Tensor,
    head: Head,
    labels: Tensor,
    token_chunk: int,
    reference: Reference | None = None,
    epsilon: float | None = None,
    rounds_to_bfloat16: bool = False,
    alternatives: Alternatives | None = None,
    vocab_tile: int = VOCAB_TILE,
) -> TokenLogps:
    """Numbers of N tokens from the hidden states that predict them.

    Args:
        hidden: [N, H], with gradient.
        head: the policy's projection; gradients reach its weight and bias.
        labels: the tokens that followed, [N].
        token_chunk: rows whose logits exist at once.
        reference: None: only `policy` is computed.
        epsilon: None: no perturbed log-probs. The logits f and g are mixed after the soft-cap, as f ∓ ε (g - f), so
            that equal logits give exactly equal log-probs.
        rounds_to_bfloat16: round as a model does that computes in bfloat16 on a GPU, where each operation is exact
            inside and rounded once: the logits after the projection and after each step of the soft-cap, the mixtures
            (1±ε) f ∓ ε g after each operation, each token's log-prob. The gradient is that of the rounded logits, as if
            rounding were the identity.
        alternatives: None: no alternative is scored.
        vocab_tile: columns whose logits exist at once.
    """
    if epsilon is not None and reference is None:
        raise ValueError("perturbed log-probs need a reference")
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.weight.dtype
    sizes = _Sizes(token_chunk, vocab_tile, dtype, head.softcap, epsilon, rounds_to_bfloat16)
    return TokenLogps(*_TokenLogps.apply(hidden, head.weight, head.bias, labels, reference, alternatives, sizes))


class _Sizes(NamedTuple):
    token_chunk: int
    vocab_tile: int
    dtype: torch.dtype  # of the projections; everything after them is at least float32
    softcap: float | None
    epsilon: float | None
    rounded: bool  # to bfloat16

    @property
    def accumulator(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 and not self.rounded else torch.float32

    @property
    def rounding(self) -> Callable[[Tensor], Tensor]:
        return _bfloat16 if self.rounded else _as_it_is


def _bfloat16(x: Tensor) -> Tensor:
    """`x` rounded to bfloat16, in its own dtype."""
    return x.to(torch.bfloat16).to(x.dtype)


def _as_it_is(x: Tensor) -> Tensor:
    return x


class _RunningSoftmax:
    """log-sum-exp, label logit and expectations of N rows whose logits arrive in tiles."""

    def __init__(self, rows: int, expectations: int, dtype: torch.dtype, device: torch.device) -> None:
        self.maximum = torch.full((rows,), -torch.inf, dtype=dtype, device=device)
        self.sum, self.label_logit = torch.zeros(2, rows, dtype=dtype, device=device)
        self.weighted = torch.zeros(expectations, rows, dtype=dtype, device=device)

    def add(self, rows: slice, logits: Tensor, label: Tensor, here: Tensor, *values: Tensor) -> None:
        """One tile [n, v]; `label` [n] is the label's column, valid where `here`; `values` [n, v] are averaged."""
        maximum = torch.maximum(self.maximum[rows], logits.amax(1))
        shrink = torch.exp(self.maximum[rows] - maximum)
        exponentials = torch.exp(logits - maximum[:, None])
        self.sum[rows] = self.sum[rows] * shrink + exponentials.sum(1)
        for weighted, value in zip(self.weighted, values, strict=True):
            weighted[rows] = weighted[rows] * shrink + torch.linalg.vecdot(exponentials, value)
        self.maximum[rows] = maximum
        self.label_logit[rows] = torch.where(here, logits.gather(1, label[:, None])[:, 0], self.label_logit[rows])

    def log_normaliser(self) -> Tensor:
        return self.maximum + self.sum.log()

    def logp(self) -> Tensor:
        return self.label_logit - self.log_normaliser()

    def expectation(self, number: int) -> Tensor:
        return self.weighted[number] / self.sum


class _RunningTop:
    """The `k` largest logits of N rows without their labels', and whose they are, while the logits arrive in tiles."""

    def __init__(self, rows: int, k: int, dtype: torch.dtype, device: torch.device) -> None:
        self.logits = torch.full((rows, k), -torch.inf, dtype=dtype, device=device)
        self.words = torch.zeros((rows, k), dtype=torch.long, device=device)

    def add(self, rows: slice, logits: Tensor, label: Tensor, here: Tensor, first_word: int) -> None:
        """One tile [n, v] that begins with word `first_word`; `label` [n] is the label's column, valid where `here`."""
        k = self.logits.shape[1]
        hit = here.nonzero()[:, 0]
        others = logits.index_put((hit, label[hit]), logits.new_tensor(-torch.inf))
        top = others.topk(min(k, others.shape[1]), dim=1)
        values = torch.cat([self.logits[rows], top.values], dim=1)
        words = torch.cat([self.words[rows], top.indices + first_word], dim=1)
        self.logits[rows], best = values.topk(k, dim=1)
        self.words[rows] = words.gather(1, best)

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One of each row's words in proportion to exp(logit), and its logit, both [N]."""
        gumbel = -torch.empty(self.logits.shape, dtype=torch.float64).exponential_(generator=generator).log()
        drawn = (self.logits + gumbel.to(self.logits)).argmax(1, keepdim=True)
        return self.words.gather(1, drawn)[:, 0], self.logits.gather(1, drawn)[:, 0]


def _logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None, dtype: torch.dtype, rounded: bool
) -> Tensor:
    """Logits of one tile, [n, v], in `dtype`; projected in the dtype of `hidden` and `weight`."""
    logits = (hidden @ weight.T).to(dtype)
    if bias is not None:
        logits += bias.to(dtype)
    if rounded:
        logits = _bfloat16(logits)
        return logits if softcap is None else _bfloat16(_bfloat16(_bfloat16(logits / softcap).tanh_()) * softcap)
    return logits if softcap is None else logits.div_(softcap).tanh_().mul_(softcap)


def _tiles(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _cut(bias: Tensor | None, words: slice) -> Tensor | None:
    return None if bias is None else bias[words]


def _columns(words: Tensor, tile: slice) -> tuple[Tensor, Tensor]:
    """The columns of `words` [n] in a tile (clamped) and where they really are, both [n]."""
    local = words - tile.start
    return local.clamp(0, tile.stop - tile.start - 1), (local >= 0) & (local < tile.stop - tile.start)


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        reference: Reference | None,
        alternatives: Alternatives | None,
        sizes: _Sizes,
    ) -> tuple[Tensor | None, ...]:
        k = 0 if alternatives is None else alternatives.k
        with torch.autocast(hidden.device.type, enabled=False):
            policy, top, others = _sweep(hidden, weight, bias, labels, reference, k, sizes)
        words, logp = None, None
        if alternatives is not None:
            words, logit = top.draw(alternatives.generator)
            logp = logit - policy.log_normaliser()
        ctx.save_for_backward(hidden, weight, bias, labels, words, policy.log_normaliser())
        ctx.sizes = sizes
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(other for other in others if other is not None))
        return (sizes.rounding(policy.logp()), *others, logp)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *others: Tensor | None) -> tuple[Tensor | None, ...]:
        *_, grad_alternative = others
        if grad is None and grad_alternative is None:
            return (None,) * 7
        kind = ctx.saved_tensors[0].device.type
        with torch.autocast(kind, enabled=False):
            gradients = _sweep_back(grad, grad_alternative, ctx.saved_tensors, ctx.sizes, ctx.needs_input_grad)
        return (*gradients, None, None, None, None)


def _sweep(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    reference: Reference | None,
    k: int,
    sizes: _Sizes,
) -> tuple[_RunningSoftmax, _RunningTop, tuple[Tensor | None, ...]]:
    """The forward pass: the policy's softmax, its top k, and the fields of TokenLogps between `policy` and
    `alternative`."""
    dtype, size, device = sizes.accumulator, len(labels), hidden.device
    f = _RunningSoftmax(size, 1 if reference is None else 2, dtype, device)
    g = _RunningSoftmax(size, 1, dtype, device)
    p, n = (_RunningSoftmax(size, 0, dtype, device) for _ in range(2))
    top = _RunningTop(size, k, dtype, device)
    for words in _tiles(len(weight), sizes.vocab_tile):
        tile, tile_bias = weight[words].to(sizes.dtype), _cut(bias, words)
        if reference is not None:
            ref_tile, ref_bias = reference.head.weight[words].to(sizes.dtype), _cut(reference.head.bias, words)
        for rows in _tiles(len(labels), sizes.token_chunk):
            label, here = _columns(labels[rows], words)
            logits = _logits(hidden[rows].to(sizes.dtype), tile, tile_bias, sizes.softcap, dtype, sizes.rounded)
            if k:
                top.add(rows, logits, label, here, words.start)
            if reference is None:
                f.add(rows, logits, label, here, logits)
                continue
            ref_hidden = reference.hidden[rows].to(sizes.dtype)
            ref_logits = _logits(ref_hidden, ref_tile, ref_bias, reference.head.softcap, dtype, sizes.rounded)
            difference = ref_logits - logits
            f.add(rows, logits, label, here, logits, difference)
            g.add(rows, ref_logits, label, here, difference)
            if sizes.epsilon is not None:
                low, high = _mixtures(logits, ref_logits, difference, sizes)
                p.add(rows, low, label, here)
                n.add(rows, high, label, here)
    entropy = f.log_normaliser() - f.expectation(0)
    if reference is None:
        return f, top, (entropy, *(None,) * 5)
    perturbed = (None, None) if sizes.epsilon is None else (sizes.rounding(p.logp()), sizes.rounding(n.logp()))
    shift = g.log_normaliser() - f.log_normaliser()
    kls = (g.expectation(0) - shift, shift - f.expectation(1))
    return f, top, (entropy, sizes.rounding(g.logp()), *perturbed, *kls)


def _mixtures(f: Tensor, g: Tensor, difference: Tensor, sizes: _Sizes) -> tuple[Tensor, Tensor]:
    """(1+ε) f - ε g and (1-ε) f + ε g, [n, v]; `difference` is g - f."""
    epsilon = sizes.epsilon
    assert epsilon is not None
    if not sizes.rounded:  # so that equal logits are mixed to exactly themselves
        return f - epsilon * difference, f + epsilon * difference
    part = _bfloat16(epsilon * g)
    return _bfloat16(_bfloat16((1 + epsilon) * f) - part), _bfloat16(_bfloat16((1 - epsilon) * f) + part)


def _sweep_back(
    grad: Tensor | None,
    grad_alternative: Tensor | None,
    saved: tuple[Any, ...],
    sizes: _Sizes,
    needed: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """d(sum of grad * log-prob) / d hidden, weight, bias: (onehot - softmax) * grad through soft-cap and projection."""
    hidden, weight, bias, labels, alternatives, log_normaliser = saved
    dtype = sizes.accumulator
    scored = [(tokens, x) for tokens, x in ((labels, grad), (alternatives, grad_alternative)) if x is not None]
    total = torch.stack([gradient for _, gradient in scored]).sum(0)
    grad_hidden = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
    grad_weight = torch.empty_like(weight) if needed[1] else None
    grad_bias = torch.empty_like(bias) if bias is not None and needed[2] else None
    for words in _tiles(len(weight), sizes.vocab_tile):
        tile = weight[words].to(sizes.dtype)
        tile_grad = torch.zeros(tile.shape, dtype=dtype, device=weight.device)
        bias_grad = torch.zeros(len(tile), dtype=dtype, device=weight.device)
        for rows in _tiles(len(labels), sizes.token_chunk):
            states = hidden[rows].to(sizes.dtype)
            logits = _logits(states, tile, _cut(bias, words), sizes.softcap, dtype, sizes.rounded)
            delta = torch.exp(logits - log_normaliser[rows, None]).mul_(-total[rows, None])
            for tokens, gradient in scored:
                column, here = _columns(tokens[rows], words)
                hit = here.nonzero()[:, 0]
                delta[hit, column[hit]] += gradient[rows][hit]
            if sizes.softcap is not None:
                delta.mul_(1 - (logits / sizes.softcap).square_())
            bias_grad += delta.sum(0)
            delta = delta.to(sizes.dtype)
            grad_hidden[rows] += delta @ tile
            if grad_weight is not None:
                tile_grad += delta.T @ states
        if grad_weight is not None:
            grad_weight[words] = tile_grad.to(weight.dtype)
        if grad_bias is not None:
            grad_bias[words] = bias_grad.to(grad_bias.dtype)
    return grad_hidden.to(hidden.dtype), grad_weight, grad_bias
