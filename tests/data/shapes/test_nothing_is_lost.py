"""What a row says beyond its shape's usual columns and values is read as it is meant or refused, never lost."""

import pytest
from shape_rows import Row

from epsilon_dpo.data.shapes.recognition import recognise
from epsilon_dpo.pipeline.observability.errors import UserError


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ([{"text": "b", "score": 0.1}, {"text": "c", "rank": 1}], "answers 0 and 1 are scored by score and by rank"),
        (
            [{"text": "b", "fine-grained_score": 4.0}, {"text": "c", "overall_score": 9.0}],
            "answers 0 and 1 are scored by fine-grained_score and by overall_score",
        ),
    ],
)
def test_answers_of_one_row_have_one_scale(answers: list[Row], sentence: str) -> None:
    row = {"prompt": "a", "answers": answers}
    with pytest.raises(UserError, match=f"x, row 1: {sentence}"):
        recognise([row], "x").read(row, "x, row 1", "all")
