"""How a sentence of the paper stands by the verdicts of its rows."""

import pytest
from study_by_hand import CLAIM

from epsilon_dpo.study.claims import Claim, Verdict
from epsilon_dpo.study.sentences import FAILS_IN_SOME, IN_BOTH, IN_SOME, follows, standing

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
