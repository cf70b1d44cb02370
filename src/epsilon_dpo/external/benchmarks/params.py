"""external/params.yaml: which policy answers which benchmark, judged by whom; answers/params.py has how it is sampled.

Everything external runs in the folder external/, so that `params.yaml`, `data/` and `out/` below are those of that
folder.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from epsilon_dpo.pipeline.stage.params import Name, Strict

Benchmark = Literal["alpaca_eval", "arena_hard", "mt_bench"]
RunName = Name  # no tool's baseline is called so
PositiveInt = Annotated[int, Field(ge=1)]


class Run(Strict):
    """One policy on one benchmark; the run's name is the model's name in the tool."""

    policy: Annotated[str, Field(pattern=r"^(sft|align/[a-z0-9_]+)$")]  # below ../out
    benchmark: Benchmark

    @property
    def data(self) -> Path:
        """The benchmark's files, which the user supplies."""
        return Path("data") / self.benchmark


Runs = dict[RunName, Run]


class Export(Strict):
    arena_hard_format: Literal["current", "2024"]  # 2024: of checkouts before the format changed, SimPO's time


class ExportView(Strict):
    """What external/export.py reads."""

    export: Export
    runs: Runs


class Judge(Strict):
    """An OpenAI-compatible endpoint, asked by the benchmark's own tool; its key comes from OPENAI_API_KEY."""

    environment: str  # of the tool, as make_environment.sh makes it
    base_url: Annotated[str, Field(pattern=r"^https?://")]
    model: str
    parallel: PositiveInt  # questions under way at once
    most_failed: Annotated[int, Field(ge=0)]  # questions that a filter, say, refuses for ever: they count as missing


class AlpacaEvalJudge(Judge):
    length_controlled: bool  # needs df_gamed.csv, and the official instructions in their order


class ArenaHardJudge(Judge):
    setting_file: str  # in the checkout: question set, judge's prompt and its patterns


class MTBenchJudge(Judge):
    """FastChat knows OpenAI's models by these names and asks no other; a local server answers to one of them."""

    model: Literal[
        "gpt-3.5-turbo",
        "gpt-3.5-turbo-0301",
        "gpt-3.5-turbo-0613",
        "gpt-3.5-turbo-1106",
        "gpt-3.5-turbo-0125",
        "gpt-4",
        "gpt-4-0314",
        "gpt-4-0613",
        "gpt-4-turbo",
        "gpt-4-1106-preview",
        "gpt-4-0125-preview",
    ]


class Judges(Strict):
    alpaca_eval: AlpacaEvalJudge
    arena_hard: ArenaHardJudge
    mt_bench: MTBenchJudge


class VerdictsView(Strict):
    """What external/verdicts.py reads; of `judge` and `runs`, only the entries of its own run."""

    judge: Judges
    runs: Runs


class Page(Strict):
    """The runs whose verdicts are on one page, in this order."""

    runs: Annotated[list[RunName], Field(min_length=1)]


class ScoreboardView(Strict):
    """What external/scoreboard.py reads; of `scoreboard`, only its own page."""

    runs: Runs
    scoreboard: dict[RunName, Page]

    @model_validator(mode="after")
    def _pages_show_runs(self) -> Self:
        for name, page in self.scoreboard.items():
            for run in page.runs:
                if run not in self.runs:
                    known = ", ".join(self.runs) or "none"
                    raise ValueError(f"scoreboard.{name}.runs names {run}, not a line under runs (known: {known})")
        return self

    def on_page(self, name: str) -> Runs:
        """The runs of page `name`, in its order."""
        return {run: self.runs[run] for run in self.scoreboard[name].runs}
