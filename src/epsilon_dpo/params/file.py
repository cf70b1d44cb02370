"""The whole of params.yaml: read by stages/check.py before anything runs, and by the tests of the presets."""

from pathlib import Path

from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.params.align import AlignView
from epsilon_dpo.params.base import BaseView
from epsilon_dpo.params.fetch import FetchView
from epsilon_dpo.params.judge import JudgeView
from epsilon_dpo.params.kl import KLView
from epsilon_dpo.params.pairs import PairsView
from epsilon_dpo.params.report import ReportView
from epsilon_dpo.params.sample import SampleView
from epsilon_dpo.params.score import ScoreView
from epsilon_dpo.params.sft import SFTView
from epsilon_dpo.params.strict import PARAMS_FILE, parse, read_yaml
from epsilon_dpo.params.validate import ValidateView


class ParamsFile(
    ReportView,
    KLView,
    ScoreView,
    SampleView,
    AlignView,
    PairsView,
    SFTView,
    JudgeView,
    ValidateView,
    BaseView,
    FetchView,
):
    """Every block that some stage reads, and no other key."""


def load_file(path: Path = PARAMS_FILE) -> ParamsFile:
    """`path`, checked to the last number, each run by the method it names.

    Raises:
        UserError: one sentence per problem.
    """
    params = parse(ParamsFile, read_yaml(path))
    for name, numbers in params.runs.items():
        method_of(name, numbers)
    return params
