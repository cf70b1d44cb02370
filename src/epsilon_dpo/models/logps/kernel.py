"""The tiled projection behind head.py: hidden states and output weights in, values per token out.

Of the logits [N, V] of N tokens one tile exists at a time, [token_chunk, vocab_tile], the policy's and beside it the
reference's. Forward, a tile is projected, soft-capped, folded into running sums and dropped. Backward, the policy's
tile is projected again: with t = tanh(raw / softcap) and a loss whose gradient by the token's log π(y) is c,

    ∂loss/∂raw = c (onehot(y) - exp(f - log Σ exp f)) (1 - t²),

and two products carry that on to the hidden states and to the weight, added in place: of size [V, H] nothing exists but
the gradient itself. So there are four products for the policy (one forward, three backward) and one for the reference.
Where KL(ref ‖ π) is asked to have a gradient, (π - ref) (1 - t²) times it is added, and the reference's tile is
projected a second time.
What else is asked for costs element-wise work, for which tiles.py has the formulas.

Memory: a handful of tiles beside the gradients, however many the tokens and however large the vocabulary.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from epsilon_dpo.models.logps.tiles import (
    Mixture,
    RunningSoftmax,
    RunningTop,
    StepPrecision,
    bfloat16,
    capped,
    gradient_of_raw,
    is_bounded,
    is_small,
    of_pair,
    of_policy,
    of_squares,
)

# Columns of the vocabulary whose logits exist at once, a matter of speed and memory only: a tile should stay in a CPU's
# caches, a product should keep a GPU busy.
VOCAB_TILE = {"cpu": 4096, "cuda": 32768}


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
    """Which other token is scored at each place: one of the policy's `k` likeliest tokens other than the label, drawn
    in proportion to their probability (Cringe's s*)."""

    k: int
    generator: torch.Generator  # on the CPU, so that every device draws the same


class TokenLogps(NamedTuple):
    """Values per completion token, [N] each, in nats; float64 for float64 models, else float32.

    Only `policy` and `alternative` have a gradient, and `kl_ref_policy` if asked to.
    """

    policy: Tensor  # log softmax(f)[y]
    entropy: Tensor  # of softmax(f)
    reference: Tensor | None = None  # log softmax(g)[y]
    logps_beta_minus: Tensor | None = None  # log π(β⁻): log softmax((1+ε) f - ε g)[y]
    logps_beta_plus: Tensor | None = None  # log π(β⁺): log softmax((1-ε) f + ε g)[y]
    kl_ref_policy: Tensor | None = None  # KL(softmax(g) || softmax(f))
    kl_policy_ref: Tensor | None = None  # KL(softmax(f) || softmax(g))
    delta_minus: Tensor | None = None  # log π(β⁻)[y] - log π[y], no digit lost; only of `exact`
    delta_plus: Tensor | None = None  # log π(β⁺)[y] - log π[y]
    log_sum_sq_probs: Tensor | None = None  # log Σ softmax(f)²
    alternative: Tensor | None = None  # log softmax(f)[the alternative]
    initial: Tensor | None = None  # log softmax(g)[y] of the reference before it moved; set by head.py alone


def token_logps(
    hidden: Tensor,
    head: Head,
    labels: Tensor,
    token_chunk: int,
    reference: Reference | None = None,
    eps_c: float | None = None,
    step_precision: StepPrecision = "exact",
    alternatives: Alternatives | None = None,
    vocab_tile: int | None = None,
    *,
    sum_sq_probs: bool = False,
    kl_gradient: bool = False,
) -> TokenLogps:
    """Log-probs, and what else is asked for, of N tokens from the hidden states that predict them.

    Args:
        hidden: [N, H], with gradient.
        head: the policy's projection; gradients reach its weight and bias.
        labels: the tokens that followed, [N].
        token_chunk: rows whose logits exist at once.
        reference: hidden states and head of the reference; None: nothing that compares with one is computed.
        eps_c: ε below, the size of the perturbation; None: no perturbed log-probs. The logits f and g are mixed after
            the soft-cap, as f ∓ ε (g - f), so that equal logits give exactly equal log-probs.
        step_precision: `exact` gives `delta_minus` and `delta_plus`, without a subtraction of log-probs (tiles.py), in
            the place of the perturbed log-probs, which `fp32` and `official_bf16` give. `official_bf16` also rounds
            as a model does that computes in bfloat16 on a GPU, where each operation is exact inside and rounded once:
            the logits after the projection and after each step of the soft-cap, the mixtures (1±ε) f ∓ ε g after each
            operation, each token's log-prob. The gradient is that of the rounded logits, as if rounding were the
            identity. Read only with `eps_c`, but for the rounding.
        alternatives: how other tokens are drawn; None: no alternative is scored.
        vocab_tile: columns whose logits exist at once; None: what suits the device.
        sum_sq_probs: also `log_sum_sq_probs`.
        kl_gradient: whether `kl_ref_policy` has a gradient, at the price of one more product backward.
    """
    if reference is None and (eps_c is not None or kl_gradient):
        raise ValueError("perturbed log-probs and a KL with a gradient need a reference")
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.weight.dtype
    mixture = None if eps_c is None else Mixture(eps_c, step_precision)
    width = vocab_tile or VOCAB_TILE.get(kind, VOCAB_TILE["cpu"])
    sizes = _Sizes(token_chunk, width, dtype, mixture, step_precision == "official_bf16", sum_sq_probs, kl_gradient)
    # Weight and bias are arguments of their own because a gradient flows to them.
    return TokenLogps(*_TokenLogps.apply(hidden, head.weight, head.bias, labels, head, reference, alternatives, sizes))


class _Sizes(NamedTuple):
    token_chunk: int
    vocab_tile: int
    dtype: torch.dtype  # of the projections; everything after them is at least float32
    mixture: Mixture | None
    rounded: bool  # to bfloat16
    sum_sq_probs: bool
    kl_gradient: bool

    @property
    def accumulator(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 and not self.rounded else torch.float32

    def round(self, x: Tensor) -> Tensor:
        return bfloat16(x) if self.rounded else x


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None, sizes: _Sizes) -> Tensor:
    """The logits of one tile, [n, v]; `weight` is of the dtype of the projections."""
    hidden = hidden.to(sizes.dtype)
    if hidden.is_cuda and hidden.dtype != sizes.accumulator and not sizes.rounded:
        logits = torch.mm(hidden, weight.T, out_dtype=sizes.accumulator)  # which a GPU sums in anyhow
    else:
        logits = hidden @ weight.T
    return capped(logits, bias, softcap, sizes.accumulator, sizes.rounded)


def _tiles(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _cut(bias: Tensor | None, span: slice) -> Tensor | None:
    return None if bias is None else bias[span]


def _columns(tokens: Tensor, tile: slice) -> tuple[Tensor, Tensor]:
    """The columns of `tokens` [n] in a tile (clamped) and where they really are, both [n]."""
    local = tokens - tile.start
    return local.clamp(0, tile.stop - tile.start - 1), (local >= 0) & (local < tile.stop - tile.start)


def _pick(found: Tensor, logits: Tensor, label: Tensor, here: Tensor) -> None:
    """Write the labels' logits of a tile into `found` [n] where they are."""
    found.copy_(torch.where(here, logits.gather(1, label[:, None])[:, 0], found))


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        head: Head,
        reference: Reference | None,
        alternatives: Alternatives | None,
        sizes: _Sizes,
    ) -> tuple[Tensor | None, ...]:
        k = 0 if alternatives is None else alternatives.k
        with torch.autocast(hidden.device.type, enabled=False):
            log_normaliser, ref_log_normaliser, top, found = _sweep(hidden, head, labels, reference, k, sizes)
        drawn = None
        if alternatives is not None:
            drawn, logit = top.draw(alternatives.generator)
            found = found._replace(alternative=logit - log_normaliser)
        ctx.save_for_backward(
            hidden, weight, bias, labels, drawn, log_normaliser, ref_log_normaliser if sizes.kl_gradient else None
        )
        ctx.softcap, ctx.sizes, ctx.reference = head.softcap, sizes, reference if sizes.kl_gradient else None
        ctx.set_materialize_grads(False)
        with_gradient = {"policy", "alternative"} | ({"kl_ref_policy"} if sizes.kl_gradient else set())
        constants = (x for name, x in found._asdict().items() if name not in with_gradient)
        ctx.mark_non_differentiable(*(x for x in constants if x is not None))
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        of = TokenLogps(*grads)  # type: ignore[arg-type]  # the gradient by each value, None where there is none
        hidden, weight, bias, labels, drawn, log_normaliser, ref_log_normaliser = ctx.saved_tensors
        scored = [(tokens, x) for tokens, x in ((labels, of.policy), (drawn, of.alternative)) if x is not None]
        towards = None
        if ctx.reference is not None and of.kl_ref_policy is not None:
            towards = _Towards(ctx.reference, ref_log_normaliser, of.kl_ref_policy)
            scored = scored or [(labels, torch.zeros_like(of.kl_ref_policy))]
        if not scored:
            return (None,) * 8
        head = Head(weight, bias, ctx.softcap)
        with torch.autocast(hidden.device.type, enabled=False):
            gradients = _sweep_back(hidden, head, scored, log_normaliser, ctx.sizes, ctx.needs_input_grad, towards)
        return (*gradients, None, None, None, None, None)


class _Towards(NamedTuple):
    """What the gradient of KL(ref ‖ π) is made of."""

    reference: Reference
    log_normaliser: Tensor  # of the reference's logits, [N]
    gradient: Tensor  # by the KLs, [N]


def _sweep(
    hidden: Tensor, head: Head, labels: Tensor, reference: Reference | None, k: int, sizes: _Sizes
) -> tuple[Tensor, Tensor | None, RunningTop, TokenLogps]:
    """The forward pass: the log-normalisers of policy and reference, the policy's top k, and every value per token but
    `alternative`."""
    dtype, device, size = sizes.accumulator, hidden.device, len(labels)
    softcaps = [head.softcap] if reference is None else [head.softcap, reference.head.softcap]
    mixture = sizes.mixture
    eps_c = 0.0 if mixture is None else mixture.eps_c
    bounded = is_bounded(softcaps, max(eps_c, 0.5) if sizes.sum_sq_probs else eps_c, len(head.weight), dtype)
    small = is_small(softcaps, eps_c)
    weighted = len(softcaps) + (2 if mixture is not None and mixture.exact else 0)  # sums of π, as of_pair has them
    f, g, minus, plus = (RunningSoftmax(size, count, bounded, dtype, device) for count in (weighted, 1, 0, 0))
    squares = RunningSoftmax(size, 0, bounded, dtype, device) if sizes.sum_sq_probs else None
    label_f, label_g = torch.zeros(2, size, dtype=dtype, device=device)
    top = RunningTop(size, k, dtype, device)
    for span in _tiles(len(head.weight), sizes.vocab_tile):
        tile, tile_bias = head.weight[span].to(sizes.dtype), _cut(head.bias, span)
        if reference is not None:
            ref_tile, ref_bias = reference.head.weight[span].to(sizes.dtype), _cut(reference.head.bias, span)
        for rows in _tiles(size, sizes.token_chunk):
            label, here = _columns(labels[rows], span)
            logits = _logits(hidden[rows], tile, tile_bias, head.softcap, sizes)
            _pick(label_f[rows], logits, label, here)
            if k:
                top.add(rows, logits, label, here, span.start)
            if squares is not None:
                squares.add(rows, of_squares(logits, bounded))
            if reference is None:
                f.add(rows, of_policy(logits, bounded))
                continue
            ref_logits = _logits(reference.hidden[rows], ref_tile, ref_bias, reference.head.softcap, sizes)
            _pick(label_g[rows], ref_logits, label, here)
            parts = of_pair(logits, ref_logits, mixture, bounded, small)
            for softmax, part in zip((f, g, minus, plus), parts, strict=False):
                softmax.add(rows, part)
    log_f = f.log_normaliser()
    found = TokenLogps(
        policy=sizes.round(label_f - log_f),
        entropy=log_f - f.expectation(0),
        log_sum_sq_probs=None if squares is None else squares.log_normaliser() - 2 * log_f,
    )
    if reference is None:
        return log_f, None, top, found
    log_g = g.log_normaliser()
    found = found._replace(
        reference=sizes.round(label_g - log_g),
        kl_ref_policy=log_f - log_g + g.expectation(0),
        kl_policy_ref=log_g - log_f - f.expectation(1),
    )
    if mixture is not None and mixture.exact:
        changes = mixture.changes(label_f, label_g, (f.expectation(2), f.expectation(3)))
        found = found._replace(delta_minus=changes[0].to(dtype), delta_plus=changes[1].to(dtype))
    elif mixture is not None:
        label_minus, label_plus = mixture.logits(label_f, label_g)
        found = found._replace(
            logps_beta_minus=sizes.round(label_minus - minus.log_normaliser()),
            logps_beta_plus=sizes.round(label_plus - plus.log_normaliser()),
        )
    return log_f, log_g, top, found


def _sweep_back(
    hidden: Tensor,
    head: Head,
    scored: list[tuple[Tensor, Tensor]],
    log_normaliser: Tensor,
    sizes: _Sizes,
    needed: tuple[bool, ...],
    towards: _Towards | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of hidden, weight and bias; `scored` are tokens [N] and the gradients of their log-probs [N]."""
    dtype, weight, bias, softcap = sizes.accumulator, head.weight, head.bias, head.softcap
    total = torch.stack([gradient for _, gradient in scored]).sum(0).to(dtype)
    if towards is not None:
        total = total - towards.gradient.to(dtype)
    grad_hidden = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
    grad_weight = torch.zeros_like(weight) if needed[1] else None
    grad_bias = torch.zeros(bias.shape, dtype=dtype, device=bias.device) if bias is not None and needed[2] else None
    for span in _tiles(len(weight), sizes.vocab_tile):
        tile = weight[span].to(sizes.dtype)
        tile_grad = None if grad_weight is None else grad_weight[span].to(dtype)  # itself, if it is of this dtype
        for rows in _tiles(len(hidden), sizes.token_chunk):
            states = hidden[rows].to(sizes.dtype)
            logits = _logits(states, tile, _cut(bias, span), softcap, sizes)
            gradients = []
            for tokens, gradient in scored:
                column, here = _columns(tokens[rows], span)
                gradients.append((column, gradient[rows].to(dtype) * here))
            against = None if towards is None else _against(towards, span, rows, sizes)
            delta = gradient_of_raw(logits, log_normaliser[rows], total[rows], gradients, softcap, against)
            if grad_bias is not None:
                grad_bias[span] += delta.sum(0)
            delta = delta.to(sizes.dtype)
            _add_product(grad_hidden[rows], delta, tile)
            if tile_grad is not None:
                _add_product(tile_grad, delta.T, states)
        if grad_weight is not None and tile_grad is not None and grad_weight.dtype != dtype:
            grad_weight[span] = tile_grad
    return grad_hidden.to(hidden.dtype), grad_weight, None if bias is None or grad_bias is None else grad_bias.to(bias)


def _against(towards: _Towards, span: slice, rows: slice, sizes: _Sizes) -> tuple[Tensor, Tensor, Tensor]:
    """The reference's tile [n, v], projected again, its log-normaliser [n] and the gradient by the KL [n]."""
    (hidden, head), log_normaliser, gradient = towards
    tile = head.weight[span].to(sizes.dtype)
    logits = _logits(hidden[rows], tile, _cut(head.bias, span), head.softcap, sizes)
    return logits, log_normaliser[rows], gradient[rows].to(sizes.accumulator)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, summed and kept in the dtype of `total`."""
    if total.is_cuda and left.dtype != total.dtype:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(left.to(total.dtype), right.to(total.dtype))
