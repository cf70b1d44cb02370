"""The judge that policies learn from: the teacher that params.yaml asks for, or the judge that scores them, too."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json

TEACHER = "teacher.json"  # {"source": ...} of the teacher beside it; null, and alone in out/teacher: there is none


def teaching_folder(judge: Path, teacher: Path) -> Path:
    """The folder, out/judge or out/teacher, of the judge that ranks candidates, finds margins and scores answers.

    Raises:
        FileNotFoundError: `teacher` was not made.
    """
    return judge if read_json(teacher / TEACHER)["source"] is None else teacher


@contextmanager
def of_the_teacher(is_one: bool = True) -> Iterator[None]:
    """Around what makes or asks a teacher: a judge's errors name the keys of block judge.

    Raises:
        UserError: the block did, with where its keys are to be found if it is the teacher.
    """
    try:
        yield
    except UserError as error:
        if not is_one:
            raise
        raise UserError(f"Of the teacher (read teacher. for judge.): {error}") from None
