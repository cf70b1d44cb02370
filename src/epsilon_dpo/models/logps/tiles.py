"""What one tile of logits contributes: to the softmaxes of its rows forward, to the gradient of the logits backward.

For one position let f and g be the soft-capped logits of policy and reference, [V] each. ε-DPO needs four softmaxes,

    π = softmax(f),  ref = softmax(g),  π(β⁻) = softmax(f + ε (f - g)),  π(β⁺) = softmax(f - ε (f - g)),

and of each only its normaliser and the label's logit, because log softmax(x)_y = x_y - log Σ exp(x). A tile holds some
of the V tokens. A row's sums over tiles are added up (`RunningSoftmax`), and nothing of a tile is kept.

What ε-DPO decides by is how much π(β⁻) and π(β⁺) differ from π, which near the reference is 1e-8 of a log-prob and
drowns in its rounding. So the *change* is what is summed (`exact`): with d = f - g, and E_π the mean over softmax(f),

    log π(β⁻)_y - log π_y = ε d_y - log E_π[exp(ε d)] = ε d_y - log1p(E_π[expm1(ε d)]),

of which every term is as small as the effect. The sums are

    Σ E    Σ Q    Σ E expm1(ε (f - g))    Σ E expm1(ε (g - f))        with  E = exp(f),  Q = exp(g).

Where f and g are equal bit for bit, both changes are exactly 0: a tie is a tie, and no rounding decides it. The
definition by log-probs (`fp32`) sums E/D and E·D instead, with D = exp(ε (g - f)), and subtracts afterwards.
The entropy and both divergences are three more sums beside them:

    H(π) = log Σ E - Σ E f / Σ E
    KL(π ‖ ref) = log Σ Q - log Σ E - Σ E (g - f) / Σ E
    KL(ref ‖ π) = log Σ E - log Σ Q + Σ Q (g - f) / Σ Q
    log Σ π²    = log Σ E² - 2 log Σ E

Soft-capped logits are bounded (`is_bounded`): nothing overflows, and no maximum has to be subtracted. Without a
soft-cap each softmax keeps its own running maximum. ε (f - g), which then has no bound, is cut at ±LARGEST_CHANGE nats
in `exact`; in `fp32` each mixture takes its own exponentials.

The functions of tensors here are element-wise but for sums over the vocabulary. On a GPU they are compiled into kernels
that read a tile once; elsewhere, and where compiling fails, the same lines run one after another. Operations that are
to be rounded to bfloat16 always run so, because a compiler leaves such roundings out.
"""

import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
# How the log-probs under π(β⁻) and π(β⁺) are compared with those under π: by their changes, which loses no digit; by
# the difference of log-probs, as eq. 5 of the paper is written; or so with every operation rounded to bfloat16.
StepPrecision = Literal["exact", "fp32", "official_bf16"]
LARGEST_CHANGE = 80.0  # of a logit, in nats; its exponential is a float32 still
SMALL_CHANGE = 2.0  # of a logit, in nats: up to this 1 + expm1 keeps its digits, to 4e-7
SMALLEST_MEAN = -1.0 + 2.0**-24  # of expm1: -1 in float32 stands for a mean of exp between 0 and this, log -16.6


class Mixture(NamedTuple):
    """How π(β⁻) and π(β⁺) are made of policy and reference.

    Attributes:
        eps_c: size of the perturbation.
        precision: with `official_bf16`, equal logits may be mixed to something else.
    """

    eps_c: float
    precision: StepPrecision

    @property
    def exact(self) -> bool:
        return self.precision == "exact"

    @property
    def rounded(self) -> bool:
        return self.precision == "official_bf16"

    def changes(self, label_f: Tensor, label_g: Tensor, means: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """log π(β⁻)_y - log π_y and log π(β⁺)_y - log π_y, in float64, the shape of the labels' logits.

        Args:
            means: E_π[expm1(ε d)] and E_π[expm1(-ε d)].
        """
        part = (self.eps_c * (label_f - label_g)).double()
        minus, plus = (mean.double().clamp(min=SMALLEST_MEAN).log1p() for mean in means)
        return part - minus, -part - plus

    def logits(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of π(β⁻) and π(β⁺), in the shape of `f` and `g`."""
        if not self.rounded:
            part = self.eps_c * (g - f)
            return f - part, f + part
        part = bfloat16(self.eps_c * g)
        minus, plus = (bfloat16(share * f) for share in (1 + self.eps_c, 1 - self.eps_c))
        return bfloat16(minus - part), bfloat16(plus + part)


class Part(NamedTuple):
    """A tile's contribution to one softmax of its n rows."""

    maximum: Tensor | None  # [n], subtracted before exponentials were taken; None: nothing was
    sum: Tensor  # of exponentials, [n]
    weighted: tuple[Tensor, ...] = ()  # sums of exponentials times values, [n] each


def compiled_on_gpu(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, whose first argument is a tensor; torch.compile'd where that is on a CUDA device."""
    compiled: Callable[P, R] | None = None
    failed = False

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> R:
        nonlocal compiled, failed
        if failed or not args[0].is_cuda:
            return function(*args, **kwargs)
        try:
            if compiled is None:  # not on import: it loads the compiler
                # How sums are split would depend on the number of rows that this process happens to see first, and a
                # resumed one sees others.
                compiled = torch.compile(function, dynamic=True, options={"split_reductions": False})
            return compiled(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # no Triton, no C compiler, an unknown device: nothing has been computed yet
            failed = True
            logging.getLogger(__name__).warning("%s is not compiled and slower: %s", function.__name__, error)
            return function(*args, **kwargs)

    return call


def bfloat16(x: Tensor) -> Tensor:
    """`x` rounded to bfloat16, in its own dtype."""
    return x.to(torch.bfloat16).to(x.dtype)


def is_bounded(softcaps: Sequence[float | None], eps_c: float, vocab: int, dtype: torch.dtype) -> bool:
    """Whether logits under these soft-caps, mixed or not, can neither overflow nor vanish in sums over `vocab`."""
    if None in softcaps:
        return False
    largest = (1 + 2 * eps_c) * max(cap for cap in softcaps if cap is not None)
    return largest + math.log(vocab * 2 * largest) < math.log(torch.finfo(dtype).max)


def is_small(softcaps: Sequence[float | None], eps_c: float) -> bool:
    """Whether ε (f - g) of logits under these soft-caps, policy's and reference's, stays within SMALL_CHANGE."""
    return None not in softcaps and eps_c * sum(cap for cap in softcaps if cap is not None) <= SMALL_CHANGE


def capped(raw: Tensor, bias: Tensor | None, softcap: float | None, dtype: torch.dtype, rounded: bool) -> Tensor:
    """Logits [n, v] in `dtype` from products of hidden states and weights, `raw`, which may be overwritten."""
    if not rounded:
        return _capped(raw, bias, softcap, dtype)
    logits = bfloat16(raw.to(dtype) if bias is None else raw.to(dtype) + bias.to(dtype))
    return logits if softcap is None else bfloat16(bfloat16(bfloat16(logits / softcap).tanh_()) * softcap)


@compiled_on_gpu
def _capped(raw: Tensor, bias: Tensor | None, softcap: float | None, dtype: torch.dtype) -> Tensor:
    logits = raw.to(dtype)
    if bias is not None:
        logits += bias.to(dtype)
    return logits if softcap is None else _tanh(logits.div_(softcap)).mul_(softcap)


def _tanh(x: Tensor) -> Tensor:
    """tanh, which overwrites `x`; to 2e-7 in float32. On a CPU torch's own takes twice as long as this one."""
    if x.is_cuda:
        return x.tanh_()
    doubled = x.mul_(2).clamp_(max=40).expm1_()  # tanh(20) is 1 in both precisions
    return doubled.div_(doubled + 2)


@compiled_on_gpu
def of_policy(f: Tensor, bounded: bool) -> Part:
    """The part of the policy's logits [n, v] alone, weighted by these logits."""
    exponentials, maximum = _exponentials(f, bounded)
    return Part(maximum, exponentials.sum(1), (_dot(exponentials, f),))


def of_pair(f: Tensor, g: Tensor, mixture: Mixture | None, bounded: bool, small: bool = False) -> tuple[Part, ...]:
    """Parts that logits of policy and reference, [n, v] each, contribute: π weighted by f and g - f, ref weighted by
    g - f, then π(β⁻) and π(β⁺). Without `mixture` only the first two; so with an exact one, where π is also weighted by
    expm1(ε d) and expm1(-ε d), of which `small` (see `is_small`) computes the one from the other.
    """
    if mixture is None or not mixture.rounded:
        exact = mixture is not None and mixture.exact
        return _of_pair(f, g, None if mixture is None else mixture.eps_c, bounded, exact, small)
    return *_of_pair(f, g, None, bounded), *(_unweighted(logits, bounded) for logits in mixture.logits(f, g))


@compiled_on_gpu
def _of_pair(
    f: Tensor, g: Tensor, eps_c: float | None, bounded: bool, exact: bool = False, small: bool = False
) -> tuple[Part, ...]:
    difference = g - f
    e, e_maximum = _exponentials(f, bounded)
    policy = Part(e_maximum, e.sum(1), (_dot(e, f), _dot(e, difference)))
    q, q_maximum = _exponentials(g, bounded)
    reference = Part(q_maximum, q.sum(1), (q.mul_(difference).sum(1),))
    del q
    if eps_c is None:
        return policy, reference
    difference *= eps_c
    if exact:
        if not bounded:
            difference.clamp_(-LARGEST_CHANGE, LARGEST_CHANGE)
        if small:  # an exponential is what costs here
            change = difference.expm1_()
            plus = _dot(e, change)
            minus = e.mul_(change.div_(change + 1)).sum(1).neg_()
        else:
            plus = _dot(e, difference.expm1())
            minus = e.mul_(difference.neg_().expm1_()).sum(1)
        return policy._replace(weighted=(*policy.weighted, minus, plus)), reference
    if not bounded:
        return policy, reference, _unweighted(f - difference, bounded), _unweighted(f + difference, bounded)
    d = difference.exp_()
    plus_sum = _dot(e, d)
    return policy, reference, Part(None, e.div_(d).sum(1)), Part(None, plus_sum)


@compiled_on_gpu
def of_squares(f: Tensor, bounded: bool) -> Part:
    """The part that logits [n, v] contribute to Σ exp(2 f), which is bounded if `is_bounded` holds for an ε of 1/2."""
    return _unweighted(2 * f, bounded)


@compiled_on_gpu
def gradient_of_raw(
    f: Tensor,
    log_normaliser: Tensor,
    total: Tensor,
    scored: Sequence[tuple[Tensor, Tensor]],
    softcap: float | None,
    towards: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """The gradient of the logits before the soft-cap, [n, v]; overwrites `f`.

    Args:
        log_normaliser: log Σ exp of each row's logits, [n].
        total: the gradient of all log-probs of a row, [n]; less that of KL(ref ‖ π), if this has one.
        scored: columns [n] and the gradients of their tokens' log-probs [n], zero for tokens of other tiles.
        towards: the reference's logits [n, v] with their log Σ exp [n] and the gradient of KL(ref ‖ π) [n], which is
            passed on to the logits as π - ref; None: this has no gradient.
    """
    delta = (f - log_normaliser[:, None]).exp_().mul_(-total[:, None])
    if towards is not None:
        g, ref_log_normaliser, gradient = towards
        delta -= (g - ref_log_normaliser[:, None]).exp_().mul_(gradient[:, None])
    for column, gradient in scored:
        delta.scatter_add_(1, column[:, None], gradient[:, None])
    return delta if softcap is None else delta.addcmul_(delta, f.div_(softcap).square_(), value=-1)


def _exponentials(logits: Tensor, bounded: bool) -> tuple[Tensor, Tensor | None]:
    if bounded:
        return logits.exp(), None
    maximum = logits.amax(1)
    return (logits - maximum[:, None]).exp_(), maximum


def _unweighted(logits: Tensor, bounded: bool) -> Part:
    exponentials, maximum = _exponentials(logits, bounded)
    return Part(maximum, exponentials.sum(1))


def _dot(exponentials: Tensor, values: Tensor) -> Tensor:
    return (exponentials * values).sum(1)


class RunningSoftmax:
    """One softmax of N rows whose parts arrive tile by tile.

    Args:
        expectations: number of weighted sums that the parts bring.
        bounded: whether the parts come without a maximum.
    """

    def __init__(self, rows: int, expectations: int, bounded: bool, dtype: torch.dtype, device: torch.device) -> None:
        self.maximum = None if bounded else torch.full((rows,), -torch.inf, dtype=dtype, device=device)
        self.sums = torch.zeros(1 + expectations, rows, dtype=dtype, device=device)  # plain, then weighted

    def add(self, rows: slice, part: Part) -> None:
        sums = torch.stack([part.sum, *part.weighted])
        if self.maximum is None:
            self.sums[:, rows] += sums
            return
        assert part.maximum is not None
        maximum = torch.maximum(self.maximum[rows], part.maximum)
        self.sums[:, rows] *= torch.exp(self.maximum[rows] - maximum)
        self.sums[:, rows] += sums * torch.exp(part.maximum - maximum)
        self.maximum[rows] = maximum

    def log_normaliser(self) -> Tensor:
        logs = self.sums[0].log()
        return logs if self.maximum is None else self.maximum + logs

    def expectation(self, number: int) -> Tensor:
        return self.sums[1 + number] / self.sums[0]


class RunningTop:
    """The `k` largest logits of N rows without their labels', and whose they are, while the logits arrive in tiles."""

    def __init__(self, rows: int, k: int, dtype: torch.dtype, device: torch.device) -> None:
        self.logits = torch.full((rows, k), -torch.inf, dtype=dtype, device=device)
        self.tokens = torch.zeros((rows, k), dtype=torch.long, device=device)

    def add(self, rows: slice, logits: Tensor, label: Tensor, here: Tensor, first_token: int) -> None:
        """One tile [n, v] from token `first_token` on; `label` [n] is the label's column, valid where `here`."""
        k = self.logits.shape[1]
        column = label[:, None]
        others = logits.scatter(1, column, logits.gather(1, column).masked_fill(here[:, None], -torch.inf))
        top = others.topk(min(k, others.shape[1]), dim=1)
        values = torch.cat([self.logits[rows], top.values], dim=1)
        tokens = torch.cat([self.tokens[rows], top.indices + first_token], dim=1)
        self.logits[rows], best = values.topk(k, dim=1)
        self.tokens[rows] = tokens.gather(1, best)

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One of each row's tokens in proportion to exp(logit), and its logit, both [N]."""
        gumbel = -torch.empty(self.logits.shape, dtype=torch.float64).exponential_(generator=generator).log()
        drawn = (self.logits + gumbel.to(self.logits)).argmax(1, keepdim=True)
        return self.tokens.gather(1, drawn)[:, 0], self.logits.gather(1, drawn)[:, 0]
