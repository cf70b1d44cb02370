"""What mixed logits foresee of trainings at another beta, by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from epsilon_dpo.pipeline.stage.files import read_jsonl, write_json, write_jsonl
from epsilon_dpo.study.foreseen import beside_trainings, beside_true_rewards, foreseen, neighbours

# Of four pairs: under mixed logits the first two decrease in beta and the third increases; the last is not decided.
# What is foreseen, z_minus - z_plus: 1, .5, -.5 and 0. The ranks of h: 3, 1, 4, 2.
OWN = [
    {"id": "a", "z": 1.0, "delta_minus": 0.5, "delta_plus": -0.5, "step": 1, "margin": 2.0},
    {"id": "b", "z": -1.0, "delta_minus": 0.25, "delta_plus": -0.25, "step": 1, "margin": -1.0},
    {"id": "c", "z": 0.0, "delta_minus": -0.25, "delta_plus": 0.25, "step": -1, "margin": 3.0},
    {"id": "d", "z": 5.0, "delta_minus": 0.125, "delta_plus": 0.125, "step": 0, "margin": 1.0},
]


def trained(changes: list[float], own: list[dict[str, Any]] = OWN) -> list[dict[str, Any]]:
    return [{"id": record["id"], "z": record["z"] + change} for record, change in zip(own, changes, strict=True)]


def test_trainings_that_are_what_mixed_logits_say() -> None:
    lower, higher = (trained([record[name] for record in OWN]) for name in ("delta_minus", "delta_plus"))
    found = beside_trainings(OWN, lower, higher)
    assert [found[name] for name in ("mixture_nearer", "change_slope", "foreseen_order")] == pytest.approx([1.0] * 3)
    # Of a, b and c, all alike, 2 of 3 are lowered: by chance 4/9 + 1/9.
    assert found["decision_agreement"] == pytest.approx(1 - 5 / 9)
    # Ranks of h 3, 1, 4, 2 beside 4, 3, 1, 2: squared differences 1, 4, 9, 0 of at most 20, so -2/5.
    assert found["order_beyond_margin"] == pytest.approx(1.0 - (1 - 6 * 14 / 60))
    # C is 0, 0, 0 and 1/4; D 1, .5, -.5 and 0, of mean 1/4.
    assert found["change_reliability"] == pytest.approx(1 - (3 / 16**2) / (3 * (1.5 / 4 - 1 / 16)))


def test_trainings_that_change_half_as_much_and_one_pair_otherwise() -> None:
    """c, which mixed logits raise, was lowered as little as it was to be raised."""
    found = beside_trainings(OWN, trained([1 / 4, 1 / 8, 1 / 8, 1 / 16]), trained([-1 / 4, -1 / 8, -1 / 8, -1 / 16]))
    made, left = 1 / 4 + 1 / 16 + 1 / 16 + 1 / 64, 1 / 4 + 1 / 16 + 9 / 16 + 1 / 64
    assert found["mixture_nearer"] == pytest.approx((made - left) / (made + left))
    assert found["change_slope"] == pytest.approx((1 / 2 + 1 / 8 - 1 / 8) / (1 + 1 / 4 + 1 / 4))
    assert found["change_reliability"] == pytest.approx(1.0)
    # All three are lowered in the trainings: two of three alike, which is chance.
    assert found["decision_agreement"] == pytest.approx(0.0)
    # P has the ranks 4, 3, 1, 2 and D, of which b and c are equal, 4, 2.5, 2.5, 1: 3.5 of the root of 5 times 4.5.
    of_h = (0.5 * 1.5 + 1.5 * 0 + 0.5 * 1.5) / np.sqrt(5 * 4.5)
    assert found["foreseen_order"] == pytest.approx((1.5 * 1.5 + 0.5 * 1.5) / np.sqrt(5 * 4.5))
    assert found["order_beyond_margin"] == pytest.approx(found["foreseen_order"] - of_h)


def test_chance_of_the_own_policy_is_in_no_value_of_what_is_made() -> None:
    """It would enter what is foreseen and what is made alike."""
    lower, higher = trained([0.2, 0.1, 0.1, 0.05]), trained([-0.2, -0.3, -0.1, -0.05])
    moved = [{**record, "z": record["z"] + chance} for record, chance in zip(OWN, [3.0, -2.0, 0.5, 1.0], strict=True)]
    found, other = (beside_trainings(own, lower, higher) for own in (OWN, moved))
    assert {name for name in found if found[name] != other[name]} == {"change_reliability"}


def test_independent_chance_is_no_change_by_beta() -> None:
    generator = np.random.default_rng(0)
    own = [{**OWN[0], "id": n, "margin": n, "delta_minus": generator.normal()} for n in range(4000)]
    lower, higher, still = (generator.normal(size=4000).tolist() for _ in range(3))
    noisy = [{**record, "z": chance} for record, chance in zip(own, still, strict=True)]
    plain = [{**record, "z": 0.0} for record in own]
    found = beside_trainings(noisy, trained(lower, plain), trained(higher, plain))
    assert abs(found["change_reliability"]) < 0.1 and abs(found["foreseen_order"]) < 0.1
    assert found["decision_agreement"] == 0.0, "all are lowered, half of them as in the trainings: chance"


def test_pairs_that_nothing_decides_have_no_agreement() -> None:
    undecided = [{**record, "step": 0} for record in OWN]
    assert "decision_agreement" not in beside_trainings(undecided, trained([0.1, 0, 0, 0]), trained([0.0] * 4))
    with pytest.raises(ValueError, match="not of the same pairs"):
        beside_trainings(OWN, trained([0.0] * 4)[::-1], trained([0.0] * 4))


def test_neighbours_differ_in_beta_alone() -> None:
    runs: dict[str, dict[str, Any]] = {
        "seeded": {"method": "dpo", "beta": 0.0990099, "seed": 3},
        "other": {"method": "ipo", "beta": 0.0990099},
        "without": {"method": "orpo", "lam": 0.1},
        "unset": {"method": "dpo"},
        "lower": {"method": "dpo", "beta": 0.0990099},
        "own": {"method": "dpo", "beta": 0.1},
        "higher": {"method": "dpo", "beta": 0.10101},
    }
    assert neighbours("own", runs, 0.01) == ("lower", "higher")
    assert neighbours("own", runs, 0.02) == neighbours("without", runs, 0.01) == (None, None)
    assert neighbours("lower", runs, 0.01) == (None, None), "0.1 is not quite its 1/(1 - ε)"


def test_a_run_with_trainings_beside_it_and_true_rewards(tmp_path: Path) -> None:
    """By each pair's id; without a truth no margin is beside one, and beside no trainings nothing is foreseen."""
    runs = {"own": {"method": "dpo", "beta": 0.1}, "lower": {"method": "dpo", "beta": 0.1 / 1.01}}
    runs["higher"] = {"method": "dpo", "beta": 0.1 / 0.99}
    changes = {"own": [0.0] * 4, "lower": [0.5, 0.25, -0.25, 0.125], "higher": [-0.5, -0.25, 0.25, 0.125]}
    for run, changed in changes.items():
        (tmp_path / "monotonicity" / run).mkdir(parents=True)
        records = [own | moved for own, moved in zip(OWN, trained(changed), strict=True)]
        write_jsonl(tmp_path / "monotonicity" / run / "records.jsonl", records)
        write_json(tmp_path / "monotonicity" / run / "metrics.json", {"epsilon": 0.01})

    def of(run: str) -> list[dict[str, Any]]:
        return read_jsonl(tmp_path / "monotonicity" / run / "records.jsonl")

    fact, claim = "Paris is the capital of France.", "Paris is the capital of Spain."  # worth 1.5 and -1
    question = [{"role": "user", "content": "Tell me about Paris."}]

    def answer(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    (tmp_path / "validate").mkdir()
    answers = {"a": (f"Good question! {fact}", claim), "b": (fact, claim), "c": (claim, f"{fact} That depends.")}
    rows = [
        {"id": own["id"], "prompt": question, "chosen": answer(chosen), "rejected": answer(rejected)}
        for own in OWN
        for chosen, rejected in [answers.get(own["id"], (claim, claim))]
    ]
    write_jsonl(tmp_path / "validate" / "eval.jsonl", rows[::-1])
    of_truth = {"quality_order", "wrong_order", "wrong_labels"}
    for truth in (False, True):
        write_json(tmp_path / "validate" / "dataset.json", {"true_reward": truth})
        found = foreseen(tmp_path, "own", runs, of("own"))
        assert found["mixture_nearer"] == pytest.approx(1.0)
        assert found.keys() & of_truth == (of_truth if truth else set())
        assert foreseen(tmp_path, "lower", runs, of("lower")).keys() == (of_truth if truth else set())
        for gone in ("lower", "higher"):  # one neighbour alone
            others = {name: entry for name, entry in runs.items() if name != gone}
            assert foreseen(tmp_path, "own", others, of("own")).keys() == (of_truth if truth else set())
    # Better by 3.5, 2.5 and 2 are the answers of a, b and c with the margins 2, -1 and -3; d's are worth the same.
    assert (found["wrong_order"], found["wrong_labels"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert found["quality_order"] == pytest.approx(1.0)


def test_quality_is_the_order_of_sizes_from_the_better_answer_to_the_worse() -> None:
    """Whichever of the two is called the chosen one; a pair of equals is in no value."""
    found = beside_true_rewards([1.0, 2.0, 30.0, 0.0, -7.0], [0.5, 2.5, 1.5, 3.0, 0.0])
    # Ranks of the margins 2, 3, 4, 1 beside 1, 3, 2, 4: squared differences 1, 0, 4, 9. The margin of 0 is half wrong.
    assert found == {"quality_order": pytest.approx(1 - 6 * 14 / 60), "wrong_order": 1 / 8, "wrong_labels": 0.0}
    turned = beside_true_rewards([1.0, -2.0, -30.0, 0.0, 7.0], [0.5, -2.5, -1.5, 3.0, 0.0])
    assert turned == found | {"wrong_labels": 0.5}
    # Of three pairs the second one's margin is the worse answer's: ranks 2, 1, 3 beside 1, 2, 3.
    assert beside_true_rewards([1.0, -2.0, -4.0], [1.0, 2.0, -3.0]) == {
        "quality_order": pytest.approx(0.5),
        "wrong_order": pytest.approx(1 / 3),
        "wrong_labels": pytest.approx(1 / 3),
    }


def test_signs_that_agree_are_no_order_of_sizes() -> None:
    """With each pair both ways round, as was measured first, independent sizes of equal signs have a correlation of
    3/4, which is above the border of the claim that margins are not quality."""
    generator = np.random.default_rng(0)
    (sizes, by), label = generator.random((2, 4000)), generator.choice([-1.0, 1.0], size=4000)
    found = beside_true_rewards(list(sizes * label), list(by * label))
    assert abs(found["quality_order"]) < 0.05 and found["wrong_order"] == 0.0
    assert found["wrong_labels"] == pytest.approx(0.5, abs=0.05)
    both_ways_round = spearmanr([*sizes, *-sizes], [*by, *-by]).statistic
    assert both_ways_round == pytest.approx(3 / 4, abs=0.01) and both_ways_round > 0.5**0.5


def test_without_better_answers_or_sizes_there_is_no_order() -> None:
    assert beside_true_rewards([1.0, 2.0], [0.0, 0.0]) == {}
    assert beside_true_rewards([1.0, 2.0], [0.5, -0.5]) == {"wrong_order": 0.5, "wrong_labels": 0.5}
