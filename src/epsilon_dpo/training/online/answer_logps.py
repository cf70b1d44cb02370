"""Log-probs of the policy's own answers, token by token, and a value of the state before each."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from epsilon_dpo.models.logps.head import head_of
from epsilon_dpo.models.logps.kernel import token_logps
from epsilon_dpo.models.logps.padding import pad_right
from epsilon_dpo.training.alignment.reference_model import ReferenceModel

Row = tuple[list[int], list[int]]  # token ids of a prompt and an answer


class AnswerTokens(NamedTuple):
    """Per token of B answers, [B, T] in float64 with T the longest answer; 0 beyond an answer's end."""

    mask: Tensor  # true on the tokens
    policy: Tensor  # log pi(y_t); with `values` all that has a gradient
    entropy: Tensor  # of the policy
    values: Tensor | None  # of the state before the token, if there is a value head
    reference: Tensor | None = None  # log rho(y_t); with the KLs if a reference was asked for
    kl_rev: Tensor | None = None  # KL(pi || rho) of the next token, over the whole vocabulary
    kl_fwd: Tensor | None = None  # KL(rho || pi)


class ValueHead(nn.Module):
    """A linear layer on the policy's last hidden states; all values are 0 at the start."""

    def __init__(self, hidden_size: int, like: Tensor) -> None:
        super().__init__()
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.linear = nn.Linear(hidden_size, 1, device=like.device, dtype=dtype)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, H] to [N]."""
        values: Tensor = self.linear(hidden.to(self.linear.weight.dtype))[:, 0]
        return values


class AnswerLogps:
    """Runs the policy, and where asked for the reference, over answers.

    Args:
        values: None: the method needs none.
        token_chunk: answer tokens whose logits exist at once.
    """

    def __init__(self, values: ValueHead | None, token_chunk: int, pad_token_id: int, accelerator: Accelerator) -> None:
        self.values = values
        self.token_chunk = token_chunk
        self.pad_token_id = pad_token_id
        self.accelerator = accelerator

    def __call__(self, model: nn.Module, rows: Sequence[Row], reference: ReferenceModel | None = None) -> AnswerTokens:
        """Of a micro-batch of B answers.

        Args:
            model: patched by add_logps_head, wrapped for training or not.
        """
        policy: Any = self.accelerator.unwrap_model(model)
        batch = {name: x.to(policy.device) for name, x in pad_right(rows, self.pad_token_id).items()}
        positions = batch["completion_mask"][:, 1:].bool()
        labels = batch["input_ids"][:, 1:][positions]
        with self.accelerator.autocast():
            hidden: Tensor = model(**batch)
            against = None if reference is None else reference(batch)
            found = token_logps(hidden, head_of(policy), labels, self.token_chunk, against)
        lengths = positions.sum(1)
        mask = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
        values = None if self.values is None else self.values(hidden)
        flat = (found.policy, found.entropy, values, found.reference, found.kl_policy_ref, found.kl_ref_policy)
        return AnswerTokens(mask, *(_in_rows(x, mask) for x in flat))  # type: ignore[arg-type]  # as the fields are


def _in_rows(flat: Tensor | None, mask: Tensor) -> Tensor | None:
    """Values of all tokens, answer by answer [N], as [B, T] in float64."""
    if flat is None:
        return None
    wide = flat.double()
    return wide.new_zeros(mask.shape).masked_scatter(mask, wide)
