"""Of which beta h is the margin of a method's own rewards: asked of every method, on pairs made up here."""

from typing import Any

import pytest
import torch
from torch import Tensor
from whole_pipeline import ROOT

from epsilon_dpo.methods.interface import Logps, Method
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.report.figures.margins import beta_of_rewards
from epsilon_dpo.training.alignment.pair_metrics import pair_metrics

RUNS: dict[str, dict[str, Any]] = read_yaml(ROOT / "presets" / "all-methods.yaml")["runs"]
BETA_H = {"dpo", "epsilon_dpo", "beta_dpo", "kto", "r_dpo", "tdpo", "wpo", "madpo", "apo"}


def side(random: torch.Generator, moved: bool) -> Logps:
    """An answer to each of 16 pairs: 1 to 9 tokens."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    tokens = torch.randint(1, 10, (16,), generator=random)
    per_token = -normal(16, 9).abs()
    mask = torch.arange(9) < tokens[:, None]
    reference = (per_token * mask).sum(1) + normal(16)
    names = ("logps_beta_minus", "logps_beta_plus", "kl_ref_policy", "kl_policy_ref", "entropy", "delta_minus")
    beside = {name: normal(16).abs() for name in (*names, "delta_plus", "log_sum_sq_probs", "score")}
    return Logps(
        policy=(per_token * mask).sum(1),
        tokens=tokens,
        reference=reference,
        initial=reference + normal(16) if moved else None,
        mean_tokens=5.0,
        mean_mismatched=0.1,
        policy_tokens=per_token * mask,
        alternative_tokens=-normal(16, 9).abs() * mask,
        mask=mask,
        flip_rate=torch.full((16,), 0.1, dtype=torch.float64),
        **beside,
    )


def evaluated(method: Method[Any], answers: tuple[Logps, Logps]) -> tuple[dict[str, float], list[float]]:
    """metrics.json after an evaluation on these pairs; of each pair the margin of the method's rewards."""
    loss = method.loss(*answers)
    metrics = pair_metrics(*answers, loss)
    means = {f"eval_{name}": values.mean().item() for name, values in metrics.items()}
    return means | {k: v for k, v in method.state_dict().items() if k == "beta"}, metrics["rewards/margins"].tolist()


def to_initial(answer: Logps) -> Tensor:
    """Log-ratios against the SFT policy, [16]."""
    initial = answer.reference if answer.initial is None else answer.initial
    assert initial is not None
    return answer.policy - initial


@pytest.mark.parametrize("name", RUNS)
def test_beta_h_is_the_margin_of_the_rewards_or_is_not_said(name: str) -> None:
    method, random = method_of(name, RUNS[name]), torch.Generator().manual_seed(7)
    assert isinstance(method, Method)
    chosen, rejected = side(random, method.moves_reference), side(random, method.moves_reference)
    trained, rewards = evaluated(method, (chosen, rejected))
    if not method.needs_reference:
        trained = {key: value for key, value in trained.items() if key not in ("eval_margins_raw", "eval_kl/fwd_proxy")}
    beta = beta_of_rewards(RUNS[name], trained)
    h = to_initial(chosen) - to_initial(rejected)
    per_pair = torch.tensor(rewards, dtype=torch.float64) / h
    alike = bool(((per_pair - per_pair[0]).abs() < 1e-9 * per_pair[0].abs()).all())
    assert (beta is not None) == (alike and "beta" in RUNS[name]), (beta, alike)
    if beta is not None:
        assert (beta * h).tolist() == pytest.approx(rewards)
    if RUNS[name]["method"] in BETA_H and RUNS[name].get("divergence") != "forward_kl":
        assert beta == RUNS[name]["beta"]


def test_a_beta_that_has_moved_is_the_one_at_the_end() -> None:
    config = {"method": "epsilon_dpo", "beta": 0.3, "epsilon": 0.01}
    method, random = method_of("mine", config), torch.Generator().manual_seed(7)
    assert isinstance(method, Method)
    method.load_state_dict({"beta": 0.2})
    trained, _ = evaluated(method, (side(random, False), side(random, False)))
    assert beta_of_rewards(config, trained) == 0.2


def test_the_rounding_of_pairs_whose_mean_is_near_zero_is_no_other_reward() -> None:
    """As of rewards made in float32: two of these three ratios are above 30 nats, and their mean is small."""
    beta, ratios = 0.1, torch.tensor([31.7, -35.4, 3.7003])
    rewards, zero = beta * ratios, torch.zeros(3)
    trained = {
        "eval_rewards/margins": (rewards - zero).double().mean().item(),
        "eval_rewards/chosen": rewards.double().mean().item(),
        "eval_margins_raw": ratios.double().mean().item(),
        "eval_kl/fwd_proxy": -ratios.double().mean().item(),
    }
    assert abs(trained["eval_rewards/chosen"] / (beta * trained["eval_margins_raw"]) - 1) > 1e-5
    assert beta_of_rewards({"beta": beta}, trained) == beta
