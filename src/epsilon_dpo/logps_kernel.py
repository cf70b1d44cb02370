"""The tiled projection behind logps.py: hidden states and output weights in, numbers per token out.

Memory: two logits tiles of [token_chunk, VOCAB_TILE] and their temporaries, whatever the number of tokens and words.
Compute: one projection of the policy forward, three in backward (one of them a recomputation), one of the reference.
"""

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


class TokenLogps(NamedTuple):
    """Numbers per completion token, [N] each, in nats; float64 for float64 models, else float32.

    Only `policy` has a gradient.
    """

    policy: Tensor  # log softmax(f)[y]
    reference: Tensor | None  # log softmax(g)[y]
    p_epsilon: Tensor | None  # log softmax((1+ε) f - ε g)[y]
    n_epsilon: Tensor | None  # log softmax((1-ε) f + ε g)[y]
    kl_ref_policy: Tensor | None  # KL(softmax(g) || softmax(f))
    kl_policy_ref: Tensor | None  # KL(softmax(f) || softmax(g))


def token_logps(
    hidden: Tensor,
    head: Head,
    labels: Tensor,
    token_chunk: int,
    reference: Reference | None = None,
    epsilon: float | None = None,
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
        vocab_tile: columns whose logits exist at once.
    """
    if epsilon is not None and reference is None:
        raise ValueError("perturbed log-probs need a reference")
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.weight.dtype
    sizes = _Sizes(token_chunk, vocab_tile, dtype, head.softcap, epsilon)
    return TokenLogps(*_TokenLogps.apply(hidden, head.weight, head.bias, labels, reference, sizes))


class _Sizes(NamedTuple):
    token_chunk: int
    vocab_tile: int
    dtype: torch.dtype  # of the projections; everything after them is at least float32
    softcap: float | None
    epsilon: float | None


class _RunningSoftmax:
    """log-sum-exp, label logit and (if asked) an expectation of N rows whose logits arrive in tiles."""

    def __init__(self, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self.maximum = torch.full((rows,), -torch.inf, dtype=dtype, device=device)
        self.sum, self.weighted, self.label_logit = torch.zeros(3, rows, dtype=dtype, device=device)

    def add(self, rows: slice, logits: Tensor, label: Tensor, here: Tensor, values: Tensor | None = None) -> None:
        """One tile [n, v]; `label` [n] is the label's column, valid where `here`; `values` [n, v] are averaged."""
        maximum = torch.maximum(self.maximum[rows], logits.amax(1))
        shrink = torch.exp(self.maximum[rows] - maximum)
        exponentials = torch.exp(logits - maximum[:, None])
        self.sum[rows] = self.sum[rows] * shrink + exponentials.sum(1)
        if values is not None:
            self.weighted[rows] = self.weighted[rows] * shrink + torch.linalg.vecdot(exponentials, values)
        self.maximum[rows] = maximum
        self.label_logit[rows] = torch.where(here, logits.gather(1, label[:, None])[:, 0], self.label_logit[rows])

    def log_normaliser(self) -> Tensor:
        return self.maximum + self.sum.log()

    def logp(self) -> Tensor:
        return self.label_logit - self.log_normaliser()

    def expectation(self) -> Tensor:
        return self.weighted / self.sum


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None, dtype: torch.dtype) -> Tensor:
    """Logits of one tile, [n, v], in `dtype`; projected in the dtype of `hidden` and `weight`."""
    logits = (hidden @ weight.T).to(dtype)
    if bias is not None:
        logits += bias.to(dtype)
    return logits if softcap is None else logits.div_(softcap).tanh_().mul_(softcap)


def _tiles(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _cut(bias: Tensor | None, words: slice) -> Tensor | None:
    return None if bias is None else bias[words]


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _label_columns(labels: Tensor, words: slice) -> tuple[Tensor, Tensor]:
    """The labels' columns in a tile (clamped) and where they really are, both [n]."""
    local = labels - words.start
    return local.clamp(0, words.stop - words.start - 1), (local >= 0) & (local < words.stop - words.start)


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        reference: Reference | None,
        sizes: _Sizes,
    ) -> tuple[Tensor | None, ...]:
        with torch.autocast(hidden.device.type, enabled=False):
            policy, others = _sweep(hidden, weight, bias, labels, reference, sizes)
        ctx.save_for_backward(hidden, weight, bias, labels, policy.log_normaliser())
        ctx.sizes = sizes
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(other for other in others if other is not None))
        return (policy.logp(), *others)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 6
        with torch.autocast(grad.device.type, enabled=False):
            gradients = _sweep_back(grad, ctx.saved_tensors, ctx.sizes, ctx.needs_input_grad)
        return (*gradients, None, None, None)


def _sweep(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, reference: Reference | None, sizes: _Sizes
) -> tuple[_RunningSoftmax, tuple[Tensor | None, ...]]:
    """The forward pass: the policy's softmax, and the fields of TokenLogps after `policy`."""
    dtype = _accumulator(sizes.dtype)
    f, g, p, n = (_RunningSoftmax(len(labels), dtype, hidden.device) for _ in range(4))
    for words in _tiles(len(weight), sizes.vocab_tile):
        tile, tile_bias = weight[words].to(sizes.dtype), _cut(bias, words)
        if reference is not None:
            ref_tile, ref_bias = reference.head.weight[words].to(sizes.dtype), _cut(reference.head.bias, words)
        for rows in _tiles(len(labels), sizes.token_chunk):
            label, here = _label_columns(labels[rows], words)
            logits = _logits(hidden[rows].to(sizes.dtype), tile, tile_bias, sizes.softcap, dtype)
            if reference is None:
                f.add(rows, logits, label, here)
                continue
            ref_hidden = reference.hidden[rows].to(sizes.dtype)
            ref_logits = _logits(ref_hidden, ref_tile, ref_bias, reference.head.softcap, dtype)
            difference = ref_logits - logits
            f.add(rows, logits, label, here, difference)
            g.add(rows, ref_logits, label, here, difference)
            if sizes.epsilon is not None:
                p.add(rows, logits - sizes.epsilon * difference, label, here)
                n.add(rows, logits + sizes.epsilon * difference, label, here)
    if reference is None:
        return f, (None,) * 5
    perturbed = (None, None) if sizes.epsilon is None else (p.logp(), n.logp())
    shift = g.log_normaliser() - f.log_normaliser()
    return f, (g.logp(), *perturbed, g.expectation() - shift, shift - f.expectation())


def _sweep_back(
    grad: Tensor, saved: tuple[Any, ...], sizes: _Sizes, needed: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """d(sum grad * log pi) / d hidden, weight, bias: (onehot - softmax) * grad through soft-cap and projection."""
    hidden, weight, bias, labels, log_normaliser = saved
    dtype = _accumulator(sizes.dtype)
    grad_hidden = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
    grad_weight = torch.empty_like(weight) if needed[1] else None
    grad_bias = torch.empty_like(bias) if bias is not None and needed[2] else None
    for words in _tiles(len(weight), sizes.vocab_tile):
        tile = weight[words].to(sizes.dtype)
        tile_grad = torch.zeros(tile.shape, dtype=dtype, device=weight.device)
        bias_grad = torch.zeros(len(tile), dtype=dtype, device=weight.device)
        for rows in _tiles(len(labels), sizes.token_chunk):
            states = hidden[rows].to(sizes.dtype)
            logits = _logits(states, tile, _cut(bias, words), sizes.softcap, dtype)
            label, here = _label_columns(labels[rows], words)
            delta = torch.exp(logits - log_normaliser[rows, None]).mul_(-grad[rows, None])
            hit = here.nonzero()[:, 0]
            delta[hit, label[hit]] += grad[rows][hit]
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
