"""Per-pair log-probs passed to a method's loss, of the chosen and of the rejected answer, from batches of token ids."""

from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from epsilon_dpo.methods.interface import Logps, Method
from epsilon_dpo.models.logps.head import Scoring
from epsilon_dpo.models.logps.kernel import Alternatives, Reference, TokenLogps
from epsilon_dpo.pipeline.observability.errors import UserError, lacks_memory
from epsilon_dpo.training.alignment.pair_data import PairCollator
from epsilon_dpo.training.alignment.reference_model import Batch, ReferenceModel


class PairLogps:
    """Runs the policy and the references that `method` asks for over batches of pairs (see PairCollator).

    Args:
        reference: model that log-ratios are taken against; None: the method needs none.
        initial: the reference before it moved; None: it does not move.
        token_chunk: completion tokens whose logits exist at once.
    """

    def __init__(
        self,
        method: Method[Any],
        reference: ReferenceModel | None,
        initial: ReferenceModel | None,
        token_chunk: int,
        accelerator: Accelerator,
    ) -> None:
        self.method = method
        self.reference = reference
        self.initial = initial
        self.token_chunk = token_chunk
        self.accelerator = accelerator

    def score(
        self, model: nn.Module, batch: dict[str, Any], means: dict[str, float], generator: torch.Generator
    ) -> tuple[Logps, Logps]:
        """Chosen and rejected of a micro-batch, [B] each, with gradient.

        Args:
            model: the policy, wrapped for training or not.
            means: result of `known_before`, over the optimizer step.
            generator: draws the alternatives, if the method wants any.
        """
        method = self.method
        rows = _rows(batch)
        with self.accelerator.autocast():
            scoring = Scoring(
                self.token_chunk,
                _of(self.reference, rows),
                method.eps_c,
                method.step_precision,
                None if method.alternatives is None else Alternatives(method.alternatives, generator),
                _of(self.initial, rows),
                method.sum_sq_probs,
                method.kl_gradient,
            )
            tokens: TokenLogps = model(**rows, scoring=scoring)
        # The sums that official_bf16 rounds are the released code's, which a GPU takes in float32.
        precision = torch.float32 if method.step_precision == "official_bf16" else torch.float64
        chosen, rejected = _pair_logps(tokens, rows["completion_mask"], means, precision)
        if method.needs_scores:
            scores = batch["scores"].to(precision).chunk(2)
            chosen, rejected = replace(chosen, score=scores[0]), replace(rejected, score=scores[1])
        if method.needs_flip_rates:
            rates = batch["flip_rates"].to(precision)
            chosen, rejected = replace(chosen, flip_rate=rates), replace(rejected, flip_rate=rates)
        return chosen, rejected

    @torch.no_grad()
    def known_before(self, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """What a loss may need of all pairs of the step before it is taken of the first, [B] in float64 each."""
        lengths = batch["completion_mask"][:, 1:].sum(-1).double()
        known = dict(zip(("tokens/chosen", "tokens/rejected"), lengths.chunk(2), strict=True))
        if self.method.mismatched:
            rows = batch["mismatched"]
            with self.accelerator.autocast():
                scoring = Scoring(self.token_chunk, _of(self.reference, rows))
                tokens = model(**rows, scoring=scoring)
            ratios = (tokens.policy.double() - tokens.reference.double()).sum(-1)
            known |= zip(("mismatched/chosen", "mismatched/rejected"), ratios.chunk(2), strict=True)
        return known

    @torch.no_grad()
    def looked_at(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """`Method.looked_at` of a batch ahead of its loss, [B] in float64; a reference runs only if one is needed."""
        rows = _rows(batch)
        with self.accelerator.autocast():
            tokens = model(**rows, scoring=Scoring(self.token_chunk, _of(self.reference, rows)))
        return self.method.looked_at(*_pair_logps(tokens, rows["completion_mask"], {}, torch.float64))


def _of(reference: ReferenceModel | None, rows: Batch) -> Reference | None:
    return None if reference is None else reference(rows)


def _rows(batch: dict[str, Any]) -> Batch:
    """What the model is called with: `batch` without what is beside the pairs' texts."""
    return {name: x for name, x in batch.items() if name not in ("mismatched", "scores", "flip_rates")}


def _pair_logps(
    tokens: TokenLogps, completion_mask: Tensor, means: dict[str, float], precision: torch.dtype
) -> tuple[Logps, Logps]:
    """Chosen and rejected of B pairs, the first and the second half of 2B rows.

    Args:
        precision: dtype of the sums over tokens and of all that a loss makes of them. A loss compares sums of hundreds
            of nats whose difference may be below the spacing of float32 there (6e-5 at 900).
    """
    mask = completion_mask[:, 1:].bool()
    found = {name: x.to(precision) for name, x in tokens._asdict().items() if x is not None}
    alternative = found.pop("alternative", None)
    rows: dict[str, Tensor] = {name: x.sum(-1) for name, x in found.items()}
    rows["tokens"] = mask.sum(-1)
    if alternative is not None:
        rows |= {"policy_tokens": found["policy"], "alternative_tokens": alternative, "mask": mask}
    half = len(mask) // 2
    chosen: dict[str, Any] = {name: x[:half] for name, x in rows.items()}
    rejected: dict[str, Any] = {name: x[half:] for name, x in rows.items()}
    for name in ("tokens", "mismatched"):
        chosen[f"mean_{name}"] = means.get(f"{name}/chosen")
        rejected[f"mean_{name}"] = means.get(f"{name}/rejected")
    return Logps(**chosen), Logps(**rejected)


@torch.no_grad()
def check_shared_prompt(model: PreTrainedModel, pair: dict[str, Any], autocast: bool = False) -> None:
    """Compare the log-probs of `pair` in one row with those in two; a long one also sees the windows of attention.

    Args:
        model: patched by `add_logps_head`.
        autocast: whether its forward pass computes in bfloat16 although its weights are float32.

    Raises:
        UserError: they differ, or the architecture cannot compute the one row at all.
    """
    what = f"align.share_prompt: true is not exact for {type(model).__name__}"
    was_training = model.training
    model.eval()
    try:
        one, two = (_answers_logps(model, PairCollator(0, share_prompt)([pair])) for share_prompt in (True, False))
    except Exception as error:  # foreign code gets a mask that it may not expect: there is no list of what it raises
        if lacks_memory(error):
            raise
        raise UserError(f"{what} ({error}); set it to false in params.yaml.") from error
    finally:
        model.train(was_training)
    gaps = (one - two).abs()
    # Rounding alone: 1e-5 at most in float32; single tokens by 0.4, and 0.03 on average, in bfloat16 (SmolLM2-135M), in
    # which quantised weights compute too.
    precise = torch.finfo(model.dtype).eps < 1e-6 and not getattr(model, "is_quantized", False) and not autocast
    difference, tolerance = (gaps.max().item(), 1e-3) if precise else (gaps.mean().item(), 0.1)
    if not difference <= tolerance:
        attention = model.config.get_text_config()._attn_implementation
        raise UserError(
            f"{what} with {attention} attention: log-probs of a pair's tokens differ by {difference:.2g} nats from "
            "those of two rows; set it to false in params.yaml."
        )


def _answers_logps(model: PreTrainedModel, batch: dict[str, Any]) -> Tensor:
    """Log-prob of each token of the answers, [N]."""
    rows = {name: x.to(model.device) for name, x in _rows(batch).items()}
    tokens: TokenLogps = model(**rows, scoring=Scoring(token_chunk=512))
    return tokens.policy[rows["completion_mask"][:, 1:].bool()]
