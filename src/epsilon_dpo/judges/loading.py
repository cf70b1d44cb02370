"""The judge that stage `judge` left in out/judge, whatever its kind."""

from pathlib import Path

from epsilon_dpo.errors import UserError
from epsilon_dpo.judges.interface import Judge
from epsilon_dpo.outputs import read_json


def load_judge(folder: Path) -> Judge:
    """The judge in `folder`, by `kind` in its judge.json. Only that kind's libraries are imported.

    Raises:
        UserError: the folder holds no judge, one of another version of this project, or a damaged one.
    """
    path = folder / "judge.json"
    kind = read_json(path).get("kind") if path.is_file() else None
    if kind == "pairrm":
        from epsilon_dpo.judges.pairrm_judge import PairRMJudge

        return PairRMJudge.load(folder)
    raise UserError(f"{path} names no judge that can be loaded here (kind: {kind}); `dvc repro` makes it anew.")
