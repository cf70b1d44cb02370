"""What mixed logits foresee of trainings at another beta, by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epsilon_dpo.pipeline.stage.files import write_json, write_jsonl
from epsilon_dpo.study.foreseen import beside_trainings, foreseen, margin_quality, neighbours

# Of four pairs: under mixed logits the first two decrease in beta and the third increases; the last is not decided.
OWN = [
    {"id": "a", "z": 1.0, "delta_minus": 0.4, "delta_plus": -0.4, "step": 1, "margin": 2.0},
    {"id": "b", "z": -1.0, "delta_minus": 0.2, "delta_plus": -0.2, "step": 1, "margin": -1.0},
    {"id": "c", "z": 0.0, "delta_minus": -0.2, "delta_plus": 0.2, "step": -1, "margin": 3.0},
    {"id": "d", "z": 5.0, "delta_minus": 0.1, "delta_plus": 0.1, "step": 0, "margin": 1.0},
]


def trained(changes: list[float]) -> list[dict[str, Any]]:
    return [{"id": record["id"], "z": record["z"] + change} for record, change in zip(OWN, changes, strict=True)]


def test_trainings_that_are_what_mixed_logits_say() -> None:
    lower, higher = (trained([record[name] for record in OWN]) for name in ("delta_minus", "delta_plus"))
    found = beside_trainings(OWN, lower, higher)
    assert [found["mixture_nearer"], found["change_slope"]] == pytest.approx([1.0, 1.0])
    # Of a, b and c, all alike, 2 of 3 are lowered: by chance 4/9 + 1/9. The sign of h is wrong for b and c.
    assert found["decision_agreement"] == pytest.approx(1 - 5 / 9)
    assert found["agreement_beyond_margin"] == pytest.approx(1 - 1 / 3)


def test_trainings_that_change_half_as_much_and_one_pair_otherwise() -> None:
    """c, which mixed logits raise, was lowered; what was foreseen of d was not, since its change has no direction."""
    found = beside_trainings(OWN, trained([0.2, 0.1, 0.1, 0.05]), trained([-0.2, -0.1, -0.1, -0.05]))
    foretold = np.array([0.4, 0.2, -0.2, 0.1, -0.4, -0.2, 0.2, 0.1])
    made = np.array([0.2, 0.1, 0.1, 0.05, -0.2, -0.1, -0.1, -0.05])
    assert found["mixture_nearer"] == pytest.approx(1 - np.sum((foretold - made) ** 2) / np.sum(made**2))
    assert found["change_slope"] == pytest.approx((2 * 0.08 + 2 * 0.02 - 2 * 0.02) / (2 * (0.16 + 0.04 + 0.04 + 0.01)))
    assert found["change_repeats"] == pytest.approx(1.0)
    # All three are lowered in the trainings: two of three alike, which is chance. h is right for a and c.
    assert found["decision_agreement"] == pytest.approx(0.0)
    assert found["agreement_beyond_margin"] == pytest.approx(2 / 3 - 2 / 3)


def test_pairs_that_nothing_decides_have_no_agreement() -> None:
    found = beside_trainings([OWN[0], OWN[3]], trained([0.1] * 4)[::3], trained([0.1, 0, 0, -0.1])[::3])
    assert "decision_agreement" not in found and "agreement_beyond_margin" not in found
    with pytest.raises(ValueError, match="not of the same pairs"):
        beside_trainings(OWN, trained([0.0] * 4)[::-1], trained([0.0] * 4))


def test_neighbours_differ_in_beta_alone() -> None:
    runs: dict[str, dict[str, Any]] = {
        "lower": {"method": "dpo", "beta": 0.0990099},
        "own": {"method": "dpo", "beta": 0.1},
        "higher": {"method": "dpo", "beta": 0.10101},
        "seeded": {"method": "dpo", "beta": 0.0990099, "seed": 3},
        "other": {"method": "ipo", "beta": 0.0990099},
        "without": {"method": "orpo", "lam": 0.1},
    }
    assert neighbours("own", runs, 0.01) == ("lower", "higher")
    assert neighbours("own", runs, 0.02) == neighbours("without", runs, 0.01) == (None, None)
    assert neighbours("lower", runs, 0.01) == (None, None), "0.1 is not quite its 1/(1 - ε)"


def test_a_run_with_trainings_beside_it_and_true_rewards(tmp_path: Path) -> None:
    """By each pair's id; without a truth no quality, and beside no trainings nothing is foreseen."""
    runs = {"own": {"method": "dpo", "beta": 0.1}, "lower": {"method": "dpo", "beta": 0.1 / 1.01}}
    runs["higher"] = {"method": "dpo", "beta": 0.1 / 0.99}
    changes = {"own": [0.0] * 4, "lower": [0.4, 0.2, -0.2, 0.1], "higher": [-0.4, -0.2, 0.2, 0.1]}
    for run, changed in changes.items():
        (tmp_path / "monotonicity" / run).mkdir(parents=True)
        records = [own | moved for own, moved in zip(OWN, trained(changed), strict=True)]
        write_jsonl(tmp_path / "monotonicity" / run / "records.jsonl", records)
        write_json(tmp_path / "monotonicity" / run / "metrics.json", {"epsilon": 0.01})
    right, wrong = "Paris is the capital of France.", "Paris is the capital of Spain."
    question = {"role": "user", "content": "Tell me about Paris."}

    def dialogue(text: str) -> list[dict[str, str]]:
        return [question, {"role": "assistant", "content": text}]

    (tmp_path / "validate").mkdir()
    rows = [
        {"id": own["id"], "chosen": dialogue(right if own["id"] == "c" else wrong), "rejected": dialogue(wrong)}
        for own in OWN
    ]
    write_jsonl(tmp_path / "validate" / "eval.jsonl", rows[::-1])
    for truth in (False, True):
        write_json(tmp_path / "validate" / "dataset.json", {"true_reward": truth})
        found = foreseen(tmp_path, "own", runs)
        assert found["mixture_nearer"] == pytest.approx(1.0)
        # The ranks of h are 3, 1, 4, 2, those of the true differences 2, 2, 4, 2.
        assert found.get("margin_quality") == (pytest.approx(3.0 / np.sqrt(5.0 * 3.0)) if truth else None)
        assert foreseen(tmp_path, "lower", runs).keys() == ({"margin_quality"} if truth else set())


def test_quality_is_a_correlation_of_ranks() -> None:
    assert margin_quality([1.0, 2.0, 30.0], [0.1, 0.2, 0.3]) == pytest.approx(1.0)
    assert margin_quality([1.0, 2.0, 30.0], [0.1, 0.3, 0.2]) == pytest.approx(0.5)
