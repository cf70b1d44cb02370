"""A micro-batch of a training, and a pass without gradient, run on tensors without memory (live.py).

What runs is what the stages run: transformers' model, the alignment's recomputed attention and log-prob head
(models/logps), TRL's head in SFT. Only what depends on the data is put in by hand: which positions hold an answer.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from epsilon_dpo.forecast.architecture import model_of
from epsilon_dpo.forecast.live import ACTIVATIONS, GRADIENTS, HEAD, REFERENCE, LiveBytes, without_memory
from epsilon_dpo.models.logps.head import head_of
from epsilon_dpo.models.logps.kernel import VOCAB_TILE, Reference, token_logps
from epsilon_dpo.models.logps.shared_prompt import SharedPrompt, shared_prompt_inputs
from epsilon_dpo.pipeline.observability.errors import UserError, first_line
from epsilon_dpo.training.alignment.recomputed_attention import recompute_attention
from epsilon_dpo.training.alignment.reference_model import disable_dropout
from epsilon_dpo.training.loop.adapters import target_modules
from epsilon_dpo.training.loop.params import LoRA

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class References:
    """What the log-ratios of a step are taken against.

    Attributes:
        count: 0: nothing; 1: the frozen SFT model; 2: a reference that moves, and the one that it was at first.
        separate: whether they are models of their own; else the policy under another adapter, or under none.
    """

    count: int
    separate: bool = True

    @property
    def moving(self) -> bool:
        return self.count == 2

    @property
    def models(self) -> int:
        """Those in memory beside the policy."""
        return self.count if self.separate else 0


class Rows(NamedTuple):
    """What a model sees at once."""

    rows: int
    columns: int
    scored: int  # answer tokens in all rows
    shared: bool = False  # whether a row is an entire pair (align.share_prompt)


@dataclass(frozen=True)
class How:
    """How a model is trained, whatever the loss.

    Attributes:
        dtype: of the weights.
        autocast: bf16 over these weights.
        accumulates: whether gradients of an earlier micro-batch are there already.
        device: decides the size of a tile of logits; everything else is the same for both.
        shared_out: FSDP, under which autocast keeps no copies (training/loop/sharding.py).
    """

    dtype: torch.dtype
    autocast: bool
    gradient_checkpointing: bool
    lora: LoRA | None
    accumulates: bool
    device: Device
    shared_out: bool = False


@dataclass(frozen=True)
class Scored:
    """What `align` asks the log-prob head for, see Method and kernel.token_logps."""

    references: References
    token_chunk: int
    eps_c: float | None = None
    sum_sq_probs: bool = False
    kl_gradient: bool = False


class Simulated(NamedTuple):
    """What was alive, by label (live.py), in bytes.

    Attributes:
        peak: at the highest moment.
        working_peak: at the highest moment of what is neither weights nor gradients.
        trained: number of parameters that are trained.
        trained_bytes: of these parameters.
    """

    peak: Counter[str]
    working_peak: Counter[str]
    trained: int = 0
    trained_bytes: int = 0


def alignment_step(config: PreTrainedConfig, how: How, rows: Rows, scored: Scored) -> Simulated:
    """Forward and backward of a micro-batch of pairs, as PairLogps and PreferenceTrainer do it."""
    with without_memory() as live:
        policy = _policy(config, how, live)
        disable_dropout(policy)
        if not how.gradient_checkpointing:
            recompute_attention(policy)
        live.label = REFERENCE
        asked = scored.references
        references = [model_of(config, how.dtype).requires_grad_(False).eval() for _ in range(asked.models)]
        for reference in references:
            disable_dropout(reference)
        follower = []
        if not asked.separate:
            references = [policy] * asked.count
            if asked.moving:  # a second adapter follows; the base without any is the start
                follower = [torch.empty_like(weight) for weight in policy.parameters() if weight.requires_grad]
        live.label = ACTIVATIONS
        labels, tile = torch.zeros(rows.scored, dtype=torch.long), VOCAB_TILE[how.device]

        def micro_batch() -> None:
            with _autocast(how):
                against = [_frozen(model, rows) for model in references]
                hidden = _hidden(policy, rows)
                live.label = HEAD
                head = head_of(policy)
                found = token_logps(
                    hidden,
                    head,
                    labels,
                    scored.token_chunk,
                    against[0] if against else None,
                    scored.eps_c,
                    vocab_tile=tile,
                    sum_sq_probs=scored.sum_sq_probs,
                    kl_gradient=scored.kl_gradient,
                )
                for initial in against[1:]:
                    with torch.no_grad():
                        token_logps(hidden, head, labels, scored.token_chunk, initial, vocab_tile=tile)
            loss = found.policy.sum()
            if scored.kl_gradient and found.kl_ref_policy is not None:
                loss = loss + found.kl_ref_policy.sum()
            del found, against
            _backward(loss, hidden, live)

        found = _simulated(micro_batch, policy, how, live)
        del follower  # alive until here
        return found


def sft_step(config: PreTrainedConfig, how: How, rows: Rows) -> Simulated:
    """Forward and backward of a micro-batch of sequences, as TRL's SFTTrainer does it.

    On a GPU TRL scores the answers' positions alone, and Triton kernels fold a tile of logits without another.
    """
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    gpu = how.device == "cuda"
    folds = patch.multiple("trl.kernels.chunked_logprob", _forward_tile=_in_place, _backward_tile=_in_place)
    with without_memory() as live, folds if gpu else nullcontext():
        policy = _policy(config, how, live)
        scored = rows if gpu else rows._replace(scored=rows.rows * (rows.columns - 1))
        live.label = ACTIVATIONS
        labels = torch.zeros(scored.scored, dtype=torch.long)

        def micro_batch() -> None:
            with _autocast(how):
                hidden = _hidden(policy, scored)
                head = head_of(policy)
                live.label = HEAD
                logps, *_ = ChunkedLogProbFunction.apply(
                    hidden,
                    head.weight,
                    head.bias,
                    labels,
                    1.0,
                    _CHUNKED_LOGPROB_CHUNK_SIZE,
                    head.softcap,
                    1.0,
                    ("log_probs", "entropy", "is_top1"),
                )
            _backward(logps.sum(), hidden, live)

        return _simulated(micro_batch, policy, how, live)


def passes(config: PreTrainedConfig, dtype: torch.dtype, rows: Rows, token_chunk: int, device: Device) -> Simulated:
    """Policy and reference, as in stages kl and monotonicity, over one batch without gradient."""
    with without_memory() as live, torch.no_grad():
        policy = model_of(config, dtype).eval()
        live.label = REFERENCE
        reference = model_of(config, dtype).eval()
        live.label = ACTIVATIONS
        live.forget_peaks()
        against = _frozen(reference, rows)
        hidden = _hidden(policy, rows)
        live.label = HEAD
        labels = torch.zeros(rows.scored, dtype=torch.long)
        token_logps(hidden, head_of(policy), labels, token_chunk, against, vocab_tile=VOCAB_TILE[device])
        return Simulated(live.peak, live.working_peak)


def reading(config: PreTrainedConfig, dtype: torch.dtype, rows: Rows) -> Simulated:
    """One model reads prompts without gradient, as stage sample does before it answers them."""
    with without_memory() as live, torch.no_grad():
        model = model_of(config, dtype).eval()
        live.label = ACTIVATIONS
        live.forget_peaks()
        _hidden(model, rows)
        return Simulated(live.peak, live.working_peak)


def body_step(model: PreTrainedModel, how: How, live: LiveBytes, rows: Rows) -> Simulated:
    """Forward and backward of `model`, made inside live.without_memory, where the head costs nothing: a judge's."""
    ids = torch.zeros(rows.rows, rows.columns, dtype=torch.long)

    def micro_batch() -> None:
        with _autocast(how):
            hidden: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
        _backward(hidden.sum(), hidden, live)

    return _simulated(micro_batch, model, how, live)


@torch.no_grad()
def body_pass(model: PreTrainedModel, live: LiveBytes, rows: Rows) -> Simulated:
    """One batch through such a `model` without gradient."""
    ids = torch.zeros(rows.rows, rows.columns, dtype=torch.long)
    model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return Simulated(live.peak, live.working_peak)


def _in_place(*args: Any, **kwargs: Any) -> None:
    """Stands for a Triton kernel, which needs no memory of its own."""


def _policy(config: PreTrainedConfig, how: How, live: LiveBytes) -> PreTrainedModel:
    """The model to be trained, with its adapter, if it has one, in float32 (training/loop/adapters.py)."""
    model = model_of(config, how.dtype)
    if how.lora is not None:
        _add_adapter(model, how.lora)
    if how.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    return model.train()


def _add_adapter(model: PreTrainedModel, lora: LoRA) -> None:
    from peft import LoraConfig

    targets = target_modules(model, lora.target_modules)
    # peft moves its weights to the device where they are, and torch refuses to move what has no memory.
    with patch.object(nn.Module, "to", lambda module, *args, **kwargs: module):
        config = LoraConfig(r=lora.r, lora_dropout=lora.lora_dropout, target_modules=targets, task_type="CAUSAL_LM")
        model.add_adapter(config)


def _simulated(micro_batch: Callable[[], None], policy: PreTrainedModel, how: How, live: LiveBytes) -> Simulated:
    """Run a micro-batch; where gradients accumulate, it finds those of earlier ones."""
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.register_post_accumulate_grad_hook(lambda parameter: live.relabel([parameter.grad], GRADIENTS))
    live.label = GRADIENTS
    if how.accumulates:
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
    live.label = ACTIVATIONS
    live.forget_peaks()
    micro_batch()
    return Simulated(
        live.peak,
        live.working_peak,
        trained=sum(parameter.numel() for parameter in trained),
        trained_bytes=sum(parameter.nbytes for parameter in trained),
    )


def _autocast(how: How) -> Any:
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=not how.shared_out) if how.autocast else nullcontext()


@torch.no_grad()
def _frozen(model: PreTrainedModel, rows: Rows) -> Reference:
    return Reference(_hidden(model, rows), head_of(model))


def _hidden(model: PreTrainedModel, rows: Rows) -> Tensor:
    """The last hidden states that predict answers, [scored, H].

    Raises:
        UserError: the architecture does not take a pair as one row.
    """
    ids = torch.zeros(rows.rows, rows.columns, dtype=torch.long)
    states = _shared_states(model, ids) if rows.shared else _states(model, ids, attention_mask=torch.ones_like(ids))
    return states.flatten(0, 1).index_select(0, torch.zeros(rows.scored, dtype=torch.long))


def _states(model: PreTrainedModel, ids: Tensor, **inputs: Any) -> Tensor:
    found: Tensor = model.base_model(input_ids=ids, use_cache=False, **inputs)[0]
    return found


def _shared_states(model: PreTrainedModel, ids: Tensor) -> Tensor:
    try:
        return _states(model, ids, **shared_prompt_inputs(model, SharedPrompt(ids, ids, ids)))
    except Exception as error:  # as pair_logps.check_shared_prompt says: there is no list of what foreign code raises
        raise UserError(
            f"align.share_prompt: true is not possible for {type(model).__name__} ({first_line(error)}); set it to "
            "false in params.yaml."
        ) from error


def _backward(loss: Tensor, hidden: Tensor, live: LiveBytes) -> None:
    """Backward from `loss`; what is allocated before the gradient of `hidden` is there belongs to the head."""

    def body(gradient: Tensor) -> None:
        live.label = ACTIVATIONS

    hidden.register_hook(body)
    del hidden
    live.label = HEAD
    loss.backward()
