"""TR-DPO: the movement of the reference, and DPO where nothing moves."""

import pytest
import torch
from torch import nn

from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.methods.tr_dpo import move_reference
from epsilon_dpo.pipeline.observability.errors import UserError


def model(*weights, dtype=torch.float64):
    made = nn.Linear(len(weights), 1, bias=False, dtype=dtype)
    made.weight.data.copy_(torch.tensor([weights]))
    return made


def method(**config):
    return method_of("t", {"method": "tr_dpo", "beta": 0.1, "sync_steps": 3, **config})


@pytest.mark.parametrize(
    ("config", "moved"), [({"update": "soft", "alpha": 0.6}, [1.6, -0.5]), ({"update": "hard"}, [2.0, 0.5])]
)
def test_the_reference_moves_at_every_sync_and_only_then(config, moved):
    policy, reference = model(2.0, 0.5), model(1.0, -2.0)
    tr_dpo = method(**config)
    with torch.no_grad():
        for step in (1, 2):
            assert tr_dpo.after_step(step, {}, policy, reference) == {"tr_dpo/syncs": 0}
            assert reference.weight.tolist() == [[1.0, -2.0]]
        assert tr_dpo.after_step(3, {}, policy, reference) == {"tr_dpo/syncs": 1}
    assert reference.weight[0].tolist() == pytest.approx(moved, abs=1e-15)
    assert policy.weight.tolist() == [[2.0, 0.5]]
    resumed = method(**config)
    resumed.load_state_dict(tr_dpo.state_dict())
    assert resumed.syncs == 1


def test_equal_bfloat16_weights_do_not_move():
    policy, reference = model(*torch.randn(1000).tolist(), dtype=torch.bfloat16), model(*[0.0] * 1000)
    reference = reference.to(torch.bfloat16)
    reference.load_state_dict(policy.state_dict())
    with torch.no_grad():
        move_reference(reference, policy, 0.6)
    assert torch.equal(reference.weight, policy.weight)


def test_the_loss_is_dpo():
    chosen = Logps(torch.tensor([-12.5, -33.0]), torch.tensor([10, 24]), torch.tensor([-13.1, -31.2]))
    rejected = Logps(torch.tensor([-14.0, -24.5]), torch.tensor([8, 20]), torch.tensor([-13.2, -25.4]))
    ours = method(update="hard").loss(chosen, rejected)
    dpo = method_of("d", {"method": "dpo", "beta": 0.1}).loss(chosen, rejected)
    assert torch.equal(ours.losses, dpo.losses)
    assert torch.equal(ours.chosen_rewards, dpo.chosen_rewards)
    assert torch.equal(ours.rejected_rewards, dpo.rejected_rewards)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"update": "hard", "alpha": 0.6}, "hard copies the policy and has no alpha"),
        ({"update": "soft"}, "soft needs alpha"),
        ({"update": "soft", "alpha": 1.0}, r"runs\.t\.alpha = 1.0 is refused"),
        ({"update": "sfot", "alpha": 0.5}, r"runs\.t\.update = 'sfot' is refused"),
        ({"update": "hard", "sync_steps": 0}, r"runs\.t\.sync_steps = 0 is refused"),
    ],
)
def test_contradicting_config_is_refused(config, sentence):
    with pytest.raises(UserError, match=sentence):
        method(**config)
