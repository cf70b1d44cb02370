"""What log-ratios are taken against: hidden states and head of a frozen model at the positions of a batch.

Either a second model, or the policy's own base: with LoRA (adapters.py) the frozen weights are at hand already.
"""

import copy

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from epsilon_dpo.models.logps.head import OF_THE_POLICY, add_logps_head, head_of
from epsilon_dpo.models.logps.kernel import Reference
from epsilon_dpo.models.policy.folder import ADAPTER, has_adapter
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.training.loop.adapters import FOLLOWER, adapter_weights, add_follower, under_adapter
from epsilon_dpo.training.loop.sharding import is_sharded, shard

Batch = dict[str, Tensor]


class SeparateModel:
    """A model beside the policy, on its device, under the same autocast, without gradient.

    Attributes:
        weights: module that is moved by a method whose reference follows the policy.
    """

    def __init__(self, model: PreTrainedModel, accelerator: Accelerator) -> None:
        disable_dropout(model)
        add_logps_head(model)
        model.requires_grad_(False).eval()
        self.weights = model
        if accelerator.is_fsdp2:
            shard(model, accelerator, keep_head=True)  # it is read after the forward pass
            self.model: nn.Module = model
        else:
            self.model = accelerator.prepare_model(model, evaluation_mode=True)

    @torch.no_grad()
    def __call__(self, rows: Batch) -> Reference:
        return Reference(self.model(**rows), head_of(self.weights))


class PolicyWithoutAdapter:
    """The policy itself under another adapter than the one in training, or under none."""

    def __init__(self, policy: PreTrainedModel, adapter: str | None) -> None:
        self.policy, self.adapter = policy, adapter

    @property
    def weights(self) -> nn.Module:
        """The adapter's, as they are now: sharding puts others in their place."""
        return nn.ParameterList() if self.adapter is None else adapter_weights(self.policy, self.adapter)

    @torch.no_grad()
    def __call__(self, rows: Batch) -> Reference:
        with under_adapter(self.policy, self.adapter):
            hidden = self.policy(**rows)
        # Shared out weights are gathered for as long as a forward pass runs: the policy's next one has the head.
        return Reference(hidden, OF_THE_POLICY if is_sharded(self.policy) else head_of(self.policy))


ReferenceModel = SeparateModel | PolicyWithoutAdapter


def references(
    policy: PreTrainedModel, reference: PreTrainedModel | None, moves: bool, accelerator: Accelerator
) -> tuple[ReferenceModel | None, ReferenceModel | None]:
    """The reference, and where it moves also the one that it was at first.

    Args:
        reference: a second model, or `policy` itself with its adapter.
        moves: whether the method changes the reference's weights.
    """
    if reference is None:
        return None, None
    if reference is policy:
        start = PolicyWithoutAdapter(policy, None)
        if not moves:
            return start, None
        add_follower(policy)
        return PolicyWithoutAdapter(policy, FOLLOWER), start
    initial = SeparateModel(copy.deepcopy(reference), accelerator) if moves else None
    return SeparateModel(reference, accelerator), initial


def followed_weights(policy: PreTrainedModel) -> nn.Module:
    """What a moving reference follows: the same parameters, in the same order, as `ReferenceModel.weights`."""
    return adapter_weights(policy, ADAPTER) if has_adapter(policy) else policy


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout of `model` to zero: log-ratios compare two networks, not two random halves of them."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():  # layers keep a number and call the functional form
            if ("drop" in name or "jitter" in name) and isinstance(value, float):
                setattr(module, name, 0.0)


def refuse_noise(model: PreTrainedModel) -> None:
    """Look on a few tokens whether anything random is left of `model` in training.

    Raises:
        UserError: some is, such as a dropout that is read from the config or a router that draws its experts.
    """
    disable_dropout(model)
    ids = torch.arange(1, 9, device=model.device).remainder(model.config.get_text_config().vocab_size)[None]
    was_training = model.training
    model.train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        first, second = (model(input_ids=ids).logits for _ in range(2))
    model.train(was_training)
    if not torch.equal(first, second):
        raise UserError(
            f"{type(model).__name__} draws at random in training, and policy and reference would differ by that: set "
            "the dropout to 0.0 in the config.json of a local copy at base.path and run `dvc repro -f -s base && dvc "
            "repro`, or choose another model."
        )
