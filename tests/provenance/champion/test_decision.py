"""Who becomes the champion follows from the report's comparison, the truth first, and from its sign in either order."""

from typing import Any

import pytest

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.provenance.champion.decision import decide, name_of

APART = "cannot be told apart"


def pair(first: str, second: str, scorer: str, low: float, value: float, high: float) -> dict[str, Any]:
    outcome = "better" if low > 0 else "worse" if high < 0 else APART
    row = {"first": first, "second": second, "opponent": "chosen", "scorer": scorer, "n": 256, "p_holm": 0.01}
    return (
        row
        | {"difference": value, "low_together": low, "high_together": high, "low": 9.0, "high": 9.0}
        | {"outcome": outcome}
    )


def summary(*comparisons: dict[str, Any], truth: bool = True, sft: tuple[float, float, float] = (0.6, 0.5, 0.7)) -> Any:
    """`sft`: the win rate against SFT with its interval, by the truth where it is known; the judge has another."""
    known = {"true_win_rate": sft, "win_rate": (0.4, 0.55, 0.65)} if truth else {"win_rate": sft}
    rates = {f"{kind}/sft{end}": value for kind, values in known.items()
             for end, value in zip(("_low", "", "_high"), sorted(values), strict=True)}  # fmt: skip
    runs = {name: {"policy_sha256": name * 8, "n": 256, **rates} for name in ("old", "new")}
    elsewhere = [row | {"opponent": "sft", "outcome": "better"} for row in comparisons]  # which decides nothing
    return {"true_reward": truth, "confidence": 0.95, "runs": runs, "comparisons": [*elsewhere, *comparisons]}


@pytest.mark.parametrize(
    ("row", "promoted", "verdict", "points"),
    [
        (("old", "new", "true reward", -0.08, -0.05, -0.02), True, "is better than", "+5.0 points (2.0 to 8.0)"),
        (("new", "old", "true reward", 0.02, 0.05, 0.08), True, "is better than", "+5.0 points (2.0 to 8.0)"),
        (("new", "old", "true reward", -0.02, 0.012, 0.044), False, "cannot be told from", "+1.2 points (−2.0 to 4.4)"),
        (("old", "new", "true reward", -0.04, -0.012, 0.02), False, "cannot be told from", "+1.2 points (−2.0 to 4.0)"),
        (("old", "new", "true reward", 0.01, 0.03, 0.05), False, "is worse than", "−3.0 points (−5.0 to −1.0)"),
    ],
)  # fmt: skip
def test_only_what_is_told_from_the_champion_replaces_it(row: Any, promoted: bool, verdict: str, points: str) -> None:
    found = decide(summary(pair(*row)), "new", "old")
    assert found.promoted is promoted
    assert found.sentence.startswith(f"new {verdict} the champion old: {points} of true wins over the chosen answers")
    assert found.sentence.endswith("95 % confidence for all pairs of runs together, 256 prompts")
    assert float(found.facts["low"]) <= float(found.facts["difference"]) <= float(found.facts["high"])
    assert (found.facts["scorer"], found.facts["against"], found.facts["n"]) == ("true reward", "old", "256")


def test_the_judge_decides_only_where_the_truth_is_not_known() -> None:
    judged = pair("new", "old", "judge", 0.02, 0.05, 0.08)
    open_question = pair("new", "old", "true reward", -0.01, 0.0, 0.01)
    assert not decide(summary(judged, open_question), "new", "old").promoted
    found = decide(summary(judged, truth=False), "new", "old")
    assert found.promoted and "of judged wins over" in found.sentence and found.facts["scorer"] == "judge"


@pytest.mark.parametrize(
    ("sft", "promoted", "said"),
    [
        ((0.51, 0.6, 0.69), True, "new beats SFT"),
        ((0.5, 0.6, 0.7), False, "new cannot be told from SFT"),
        ((0.3, 0.4, 0.49), False, "new loses to SFT"),
    ],
)
@pytest.mark.parametrize(("truth", "scorer"), [(True, "true reward"), (False, "judge")])
def test_the_first_champion_beats_the_reference(sft: Any, promoted: bool, said: str, truth: bool, scorer: str) -> None:
    """By the truth where it is known, whatever the judge says."""
    found = decide(summary(sft=sft, truth=truth), "new", None)
    assert (found.promoted, found.facts["against"], float(found.facts["low"])) == (promoted, "sft", sft[0])
    assert found.facts["scorer"] == scorer and found.sentence.startswith(said)
    assert f"({100 * sft[0]:.1f} % to {100 * sft[2]:.1f} %) by the {scorer}, " in found.sentence


def test_a_pair_that_the_report_lacks_is_refused() -> None:
    with pytest.raises(UserError, match="does not compare new with old by the true reward"):
        decide(summary(pair("new", "other", "true reward", 0.1, 0.2, 0.3)), "new", "old")


def test_a_champion_is_known_by_its_policy() -> None:
    assert name_of(summary(), "oldoldoldoldoldoldoldold") == "old" and name_of(summary(), "x") is None
