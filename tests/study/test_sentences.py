"""How a sentence of the paper stands by the verdicts of its rows."""

import pytest
from study_by_hand import CLAIM

from epsilon_dpo.study.claims import Claim, Short, Verdict
from epsilon_dpo.study.sentences import FAILS_IN_SOME, IN_BOTH, IN_SOME, before, follows, now, standing
from epsilon_dpo.study.verdicts import Finding

OPEN: Verdict = "undecided at this n"


def rows(*verdicts: Verdict, because: str | None = None) -> list[tuple[Claim, Verdict]]:
    return [(Claim.model_validate(CLAIM | {"follows_from": because}), verdict) for verdict in verdicts]


@pytest.mark.parametrize(
    ("verdicts", "stands"),
    [
        (("holds", "holds"), "holds"),
        (("holds", "not run"), "holds"),
        (("holds", OPEN, "mixed"), IN_SOME),
        (("holds", "fails", OPEN), IN_BOTH),
        (("fails", OPEN), FAILS_IN_SOME),
        (("fails",), "fails"),
        (("mixed", OPEN), "mixed"),
        (("by a test", OPEN), OPEN),
        (("by a test", "not run"), "by a test"),
        (("not measurable",), "not run"),
        ((), "not run"),
    ],
)
def test_a_sentence_stands_by_its_rows(verdicts: tuple[Verdict, ...], stands: str) -> None:
    assert standing(rows(*verdicts)) == stands


def test_a_sentence_follows_where_each_row_that_holds_does() -> None:
    assert follows(rows("holds", OPEN, because="arithmetic")) and not follows(rows(OPEN, because="arithmetic"))
    assert not follows(rows("holds", because="arithmetic") + rows("holds"))


def test_at_the_first_values_a_claim_was_what_it_was_and_a_later_one_was_not() -> None:
    """One that failed as the paper's counts although it is ours now, and not by what it says now."""
    was = {"until": "Monday", "values": "seen", "was": "another rule", "verdict": "fails", "why": "Why"}
    never = was | {"values": "unknown", "verdict": "mixed"}
    kinds = {
        "as_ever": {"formerly": [never]},
        "given_up": {"post_hoc": True, "ours": True, "formerly": [never, was]},
        "added": {"post_hoc": True},
        "own": {"ours": True},
    }
    of = {id_: Finding("holds", claim=Claim.model_validate(CLAIM | {"id": id_} | kind)) for id_, kind in kinds.items()}
    row = Short(question="Does it?", answer="Yes", claims={id_: id_ for id_ in kinds}, seen=["holds"] * 4)
    assert [(claim.id, said) for claim, said in before(row, of)] == [("as_ever", "holds"), ("given_up", "fails")]
    assert [(claim.id, said) for claim, said in now(row, of)] == [("as_ever", "holds"), ("added", "holds")]
