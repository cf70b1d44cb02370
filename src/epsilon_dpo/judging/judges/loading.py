"""The judges that stage `judge` left in out/judge and out/teacher, whatever their kind."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from epsilon_dpo.judging.judges.interface import Judge
from epsilon_dpo.pipeline.observability.errors import UserError, memory_in_a_sentence
from epsilon_dpo.pipeline.stage.files import read_json
from epsilon_dpo.pipeline.stage.journal import Journal


@contextmanager
def teaching() -> Iterator[None]:
    """Around what makes or asks the judge in out/teacher: a judge's errors name the keys of block `judge`.

    Raises:
        UserError: the block did, with where else these keys may be.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"What teaches is the block teacher, or judge where that is null: {error}") from None


def load_judge(folder: Path, journal: Journal | None = None) -> Judge:
    """The judge in `folder`, which its judge.json describes.

    Args:
        journal: takes the batches that a model here has judged; an endpoint's replies have a cache of their own.

    Raises:
        UserError: the folder holds no judge, one of another version of this project, or a damaged one.
    """
    path = folder / "judge.json"
    return judge_of(read_json(path) if path.is_file() else {}, folder, journal)


def judge_of(settings: dict[str, Any], folder: Path, journal: Journal | None = None) -> Judge:
    """The judge that `settings` (the content of judge.json) describe, on the files in `folder`.

    Only the libraries of its kind are imported.

    Raises:
        UserError: there is no such kind, the files are not those of such a judge, or there is too little memory for it.
    """
    with memory_in_a_sentence(f"the judge in {folder}"):
        return _judge_of(settings, folder, journal)


def _judge_of(settings: dict[str, Any], folder: Path, journal: Journal | None) -> Judge:
    match settings.get("kind"):
        case "pairrm":
            from epsilon_dpo.judging.judges.pairrm_judge import PairRMJudge

            return PairRMJudge.load(settings, folder, journal)
        case "reward_model":
            from epsilon_dpo.judging.judges.reward_model import RewardModel

            return RewardModel.load(settings, folder, journal)
        case "sentiment":
            from epsilon_dpo.judging.judges.sentiment import Sentiment

            return Sentiment.load(settings, folder)
        case "llm":
            from epsilon_dpo.judging.judges.llm import LLM

            return LLM.load(settings)
    raise UserError(f"{folder}/judge.json describes no judge that this version knows; `dvc repro` makes it anew.")
