"""Log-probs of completions from hidden states, without the [tokens, vocabulary] logits.

One pass over tiles of the vocabulary and chunks of tokens projects policy and reference and folds both into running
log-sum-exps. It yields, per completion token, log pi (with a gradient; its logits are computed again in backward), log
ref, the log-probs under the two policies that ε-DPO perturbs, and both KL divergences over the full vocabulary. Prompt
and padding positions are never projected, and what is not asked for is not computed.

The model runs inside its own `forward`, so that the hooks of DDP and FSDP fire: `add_logps_head` gives the
instance a second mode. `completion_logps` is the same without gradient for two plain models.

Limits: the logits must be softcap(scale * hidden @ weight.T + bias), which `check_head` verifies for a model at hand.
"""

import functools
import math
import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from epsilon_dpo.models.logps.kernel import Alternatives, Head, Reference, TokenLogps, token_logps
from epsilon_dpo.models.logps.shared_prompt import shared_prompt, shared_prompt_inputs
from epsilon_dpo.models.logps.tiles import StepPrecision
from epsilon_dpo.pipeline.observability.errors import UserError

OF_THE_POLICY = Head(torch.empty(0), None, None)  # in a Reference: the head that the policy is scored with


@dataclass(frozen=True)
class Scoring:
    """What the second mode of a model's forward is asked for.

    Attributes:
        token_chunk: completion tokens whose logits exist at once.
        reference: hidden states and head of the reference at the same positions; None: nothing that compares with one.
        eps_c: size of the perturbation, needs a reference; None: no perturbed log-probs.
        step_precision, alternatives: see kernel.token_logps.
        initial: the initial reference, if `reference` has moved away from it; both KLs are then of this one.
        sum_sq_probs, kl_gradient: see kernel.token_logps.
    """

    token_chunk: int
    reference: Reference | None = None
    eps_c: float | None = None
    step_precision: StepPrecision = "exact"
    alternatives: Alternatives | None = None
    initial: Reference | None = None
    sum_sq_probs: bool = False
    kl_gradient: bool = False


def head_of(model: PreTrainedModel) -> Head:
    """The output projection of `model`, looked up at each call because wrappers may replace it."""
    lm_head = model.get_output_embeddings()
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return Head(lm_head.weight, getattr(lm_head, "bias", None), softcap)


def add_logps_head(model: PreTrainedModel) -> None:
    """Give the instance `model` a second mode; called as before, it behaves as before.

    `model(input_ids=[R, T], attention_mask=[R, T], completion_mask=[R, T])` returns the last hidden states at the
    positions that predict completion tokens, [N, H], row by row, times the scale of the logits if there is one. With
    `scoring=Scoring(...)` it returns TokenLogps as [R, T-1] tensors: column t belongs to token t+1, zero outside the
    completion. Where `completion_mask` is [2R, T], the rows are of the form of shared_prompt.py, and what is returned
    has 2R rows.
    """
    original_forward = model.forward

    # generate() validates its arguments against the signature, so the patched forward keeps it.
    @functools.wraps(type(model).forward)
    def forward(
        self: PreTrainedModel,
        *args: Any,
        completion_mask: Tensor | None = None,
        scoring: Scoring | None = None,
        **kwargs: Any,
    ) -> Any:
        if completion_mask is None:
            return original_forward(*args, **kwargs)
        hidden = _completion_hidden(self, completion_mask, *args, **kwargs)
        return hidden if scoring is None else _scored(self, hidden, kwargs["input_ids"], completion_mask, scoring)

    model.forward = types.MethodType(forward, model)


@torch.no_grad()
def completion_logps(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    completion_mask: Tensor,
    token_chunk: int,
    eps_c: float | None = None,
) -> TokenLogps:
    """Score completions under two models of one vocabulary, without gradient.

    Args:
        policy: any causal language model of transformers, patched by `add_logps_head` or not; caller sets eval().
        reference: the model to compare with; may be `policy` itself.
        input_ids: [R, T], prompt then completion, padded on the right; or pairs in the form of shared_prompt.py.
        attention_mask: [R, T], 1 on real tokens.
        completion_mask: [R, T], 1 on the completion's tokens (the stop token included); column 0 is never a completion.
            [2R, T] for pairs in one row: 1 on the chosen answers in the first R rows, on the rejected in the others.
        token_chunk: completion tokens whose logits exist at once.
        eps_c: also `delta_minus` and `delta_plus`, ε being `eps_c`; None: without these.

    Returns:
        the fields of TokenLogps as [R, T-1] tensors: column t belongs to token t+1, zero outside the completion; a sum
        over the last dimension gives the sequence's log-prob or KL, in nats.
    """
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    states = Reference(_completion_hidden(reference, completion_mask, **inputs), head_of(reference))
    hidden = _completion_hidden(policy, completion_mask, **inputs)
    return _scored(policy, hidden, input_ids, completion_mask, Scoring(token_chunk, states, eps_c))


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Compare the log-probs of this file with those of the model's own logits on a few tokens.

    A model in bfloat16 rounds its logits, and with a soft-cap what they are made of: at -100, where GPT-2's lie, to
    half a nat.

    Raises:
        UserError: the architecture does something else to its logits (a second projection, a scale of another name), or
            transformers does not say which part of it gives the hidden states; or the log-probs are not finite.
    """
    unfit = UserError(
        f"the logits of {type(model).__name__} are not its last hidden states times its output embeddings (with a "
        "known scale and a soft-cap at most): this project cannot train it; choose another model in params.yaml: base."
    )
    if model.base_model is model:
        raise unfit
    ids = torch.arange(1, 9, device=model.device).remainder(model.config.get_text_config().vocab_size)[None]
    mask = torch.ones_like(ids)
    was_training = model.training
    model.eval()
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    of_labels, norms = logits.gather(-1, ids[:, 1:, None])[..., 0], logits.logsumexp(-1)
    theirs = of_labels - norms
    hidden = _completion_hidden(model, mask, input_ids=ids, attention_mask=mask)
    ours = _scored(model, hidden, ids, mask, Scoring(token_chunk=ids.numel())).policy
    model.train(was_training)
    eps = torch.finfo(model.dtype).eps
    tolerance = 1e-3 if eps < 1e-6 else max(0.2, 2 * eps * float(torch.stack([of_labels, norms]).abs().max()))
    if not ours.isfinite().all():
        raise UserError(
            f"the log-probs of {type(model).__name__} are not finite on a few tokens: its weights are broken, or SFT "
            "diverged; lower sft.learning_rate if stage sft wrote it, or choose another model in params.yaml: base."
        )
    if (ours - theirs).abs().max() > tolerance:
        raise unfit


def _completion_hidden(
    model: PreTrainedModel, completion_mask: Tensor, input_ids: Tensor, attention_mask: Tensor
) -> Tensor:
    """Last hidden states at the positions that predict completion tokens, [N, H]."""
    positions = completion_mask[:, 1:].bool()
    if len(completion_mask) == len(input_ids):
        inputs: dict[str, Any] = {"attention_mask": attention_mask}
        return _last_hidden(model, input_ids, inputs)[:, :-1][positions]
    form = shared_prompt(attention_mask, completion_mask)
    states = _last_hidden(model, input_ids, shared_prompt_inputs(model, form))
    rows = torch.arange(len(input_ids), device=input_ids.device).repeat(2)[:, None]
    found = (rows * input_ids.shape[1] + form.predictors)[:, 1:][positions]
    return states.flatten(0, 1).index_select(0, found)


def _last_hidden(model: PreTrainedModel, input_ids: Tensor, inputs: dict[str, Any]) -> Tensor:
    states: Tensor = model.base_model(input_ids=input_ids, **inputs, use_cache=False).last_hidden_state
    scale = _logit_scale(model)
    return states if scale == 1.0 else states * scale


def _logit_scale(model: PreTrainedModel) -> float:
    """What the logits are multiplied by, under the names that configurations have for it: Cohere's, Falcon-H1's, Muse
    Glimmer's; and Granite's, by which it divides and HyperCLOVA X multiplies."""
    config = model.config.get_text_config()
    names = ("logit_scale", "lm_head_multiplier", "output_multiplier")
    scale: float = math.prod(getattr(config, name, None) or 1.0 for name in names)
    granites: float = getattr(config, "logits_scaling", None) or 1.0
    return scale * granites if config.model_type == "hyperclovax" else scale / granites


def _scored(
    model: PreTrainedModel, hidden: Tensor, input_ids: Tensor, completion_mask: Tensor, scoring: Scoring
) -> TokenLogps:
    """Project `hidden` [N, H] and put the per-token values back into rows."""
    positions = completion_mask[:, 1:].bool()
    labels = input_ids.repeat(len(completion_mask) // len(input_ids), 1)[:, 1:][positions]
    head, chunk = head_of(model), scoring.token_chunk
    found = token_logps(
        hidden,
        head,
        labels,
        chunk,
        _with_head(scoring.reference, head),
        scoring.eps_c,
        scoring.step_precision,
        scoring.alternatives,
        sum_sq_probs=scoring.sum_sq_probs,
        kl_gradient=scoring.kl_gradient,
    )
    if scoring.initial is not None:
        with torch.no_grad():
            against = token_logps(hidden, head, labels, chunk, _with_head(scoring.initial, head))
        kls = against.kl_ref_policy, against.kl_policy_ref
        found = found._replace(kl_ref_policy=kls[0], kl_policy_ref=kls[1], initial=against.reference)
    return TokenLogps._make(_in_rows(x, positions) for x in found)


def _with_head(reference: Reference | None, head: Head) -> Reference | None:
    if reference is None or reference.head is not OF_THE_POLICY:
        return reference
    return reference._replace(head=head)


def _in_rows(values: Tensor | None, positions: Tensor) -> Tensor | None:
    """`values` [N] where `positions` [R, T-1] is true, zero elsewhere."""
    # masked_scatter keeps the graph connected even when a micro-batch holds no completion token at all.
    return None if values is None else values.new_zeros(positions.shape).masked_scatter(positions, values)
