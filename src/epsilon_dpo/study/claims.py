"""study/claims.yaml: what the paper says, where, what we measure of it, and what would refute it."""

import math
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.study.measures import MEASURES

STUDY = Path("study")

Verdict = Literal["holds", "fails", "mixed", "undecided at this n", "not measurable", "by a test", "not run"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Level(Strict):
    """One setting in which claims are tested.

    Attributes:
        drawn: what is new in each replicate, and so what an interval speaks of.
        note: what a reader of its table must know of the answers and the judge.
        caution: what a reader of any of its verdicts must know.
        preset: the params.yaml of one replicate, but for paths of one's own; the others differ in `seed` alone.
        seeds: of the replicates. Empty: nobody has run this level, for what `needs` says.
    """

    title: str
    drawn: str | None = None
    note: str | None = None
    caution: str | None = None
    preset: Path | None = None
    seeds: list[int] = []
    needs: str | None = None


class Expected(Strict):
    """What the claim says of the measured number: that it lies on one side of `than`."""

    is_: Literal["above", "below"] = Field(alias="is")
    than: float


class Former(Strict):
    """What a claim was before it was defined anew.

    Attributes:
        until: day, time and commit of the change.
        values: whether values of the claim's level had been seen by then. `unknown`: history does not tell.
        was: its definition, its rule, or whose claim it was.
        ours: whether neither the paper nor the slides made it.
        verdict, measured: what it said of the rows that we have; None where these do not tell.
        why: the reason for the change.
    """

    until: str
    values: Literal["seen", "unknown"]
    was: str
    ours: bool = False
    verdict: Verdict | None = None
    measured: str = ""
    why: str


class Claim(Strict):
    """One claim.

    Attributes:
        place: in the paper, or in the slides.
        ours: whether neither of them says it.
        post_hoc: whether it was added or defined anew after a look at the values, which then chose it.
        formerly: what it was before each change of its definition, its rule or its owner, the oldest first; not where
            its wording alone changed, nor before anything had been run.
        follows_from: what makes it come out so, mostly or entirely, whatever the methods do.
        definition: what is measured, for a reader; `measure` is the same for the program.
        refuted_by: what would refute it.
        level: where it is measured. None: `test` holds it, or `needs` says why nobody has measured it.
        test: a test of this repository, as pytest names it.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    claim: str
    place: str
    ours: bool = False
    post_hoc: bool = False
    formerly: list[Former] = []
    follows_from: str | None = None
    definition: str
    refuted_by: str
    level: str | None = None
    measure: dict[str, Any] | None = None
    expected: Expected | None = None
    unit: str = ""
    test: str | None = None
    needs: str | None = None

    @model_validator(mode="after")
    def _has_one_way_to_a_verdict(self) -> "Claim":
        ways = [self.measure is not None, self.test is not None, self.needs is not None]
        if sum(ways) != 1:
            raise ValueError("a claim has exactly one of measure, test and needs")
        if self.before is not None and not self.post_hoc:
            raise ValueError("a claim that was defined anew after its values had been seen is post_hoc")
        if self.measure is not None:
            if self.level is None or self.expected is None:
                raise ValueError("a measured claim has a level and says what is expected")
            name = self.measure.get("name")
            if not isinstance(name, str) or name not in MEASURES:
                raise ValueError(f"no measure is called {name}: there are {', '.join(MEASURES)}")
            given = {key: value for key, value in self.measure.items() if key != "name"}
            try:
                signature(MEASURES[name]).bind([], **given)
            except TypeError as error:
                raise ValueError(f"measure {name}: {error}") from None
            if "budgets" in given and not _is_a_range(given["budgets"]):
                raise ValueError(
                    f"budgets of a claim are two KLs in nats, the smaller one first, not {given['budgets']!r}"
                )
        return self

    @property
    def before(self) -> Former | None:
        """What it was when the first values of its level were committed, unless it is so still or was added later."""
        return next((former for former in self.formerly if former.values == "seen"), None)


def _is_a_range(budgets: Any) -> bool:
    """Whether a file has two numbers there, of which the second is larger and the first not negative."""
    return (
        isinstance(budgets, list)
        and len(budgets) == 2
        and all(isinstance(kl, int | float) for kl in budgets)
        and 0 <= budgets[0] < budgets[1] < math.inf
    )


class Short(Strict):
    """A sentence of the paper or the slides, as a question.

    Attributes:
        answer: a person's, who wrote it when the verdicts were those of `seen`.
        claims: that it rests on, by a label each: its rows, and ours that help to read them.
        seen: the verdict of each of `claims`, in their order.
    """

    question: str
    answer: str
    claims: dict[str, str]
    seen: list[Verdict]


class Found(Strict):
    """What was found, in one sentence.

    Attributes:
        says: a person's, who wrote it when the verdicts were those of `seen`.
        seen: the verdict of each claim that it rests on, by the claim's name.
    """

    says: str
    seen: Annotated[dict[str, Verdict], Field(min_length=1)]


class Study(Strict):
    """The file: at which confidence every interval is stated, the levels, what was found, the first table, and all
    claims."""

    confidence: Annotated[float, Field(gt=0.5, lt=1.0)]
    levels: dict[str, Level]
    found: list[Found] = []
    in_short: list[Short] = []
    claims: list[Claim]

    @model_validator(mode="after")
    def _names_are_known(self) -> "Study":
        names = [claim.id for claim in self.claims]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two claims are called {sorted(twice)[0]}")
        if unknown := {claim.level for claim in self.claims if claim.level} - self.levels.keys():
            raise ValueError(f"no level is called {sorted(unknown)[0]}: there are {', '.join(self.levels)}")
        if unknown := {id_ for one in self.found for id_ in one.seen} - set(names):
            raise ValueError(f"found: no claim is called {sorted(unknown)[0]}")
        rows = [id_ for row in self.in_short for id_ in row.claims.values()]
        if unknown := set(rows) - set(names):
            raise ValueError(f"in_short: no claim is called {sorted(unknown)[0]}")
        if twice := {name for name in rows if rows.count(name) > 1}:
            raise ValueError(f"in_short: {sorted(twice)[0]} belongs to two questions, so it would count twice")
        papers = {claim.id for claim in self.claims if not claim.ours or (claim.before and not claim.before.ours)}
        if self.in_short and (lacking := papers - set(rows)):
            raise ValueError(f"in_short: {sorted(lacking)[0]} belongs to no question, so it would not count")
        for row in self.in_short:
            if len(row.seen) != len(row.claims):
                raise ValueError(
                    f"in_short: {row.question!r} has {len(row.claims)} claims and {len(row.seen)} in `seen`"
                )
        return self


def read_study() -> Study:
    """The claims of study/claims.yaml.

    Raises:
        UserError: there is no such file, or a claim in it is not one.
    """
    file = STUDY / "claims.yaml"
    if not file.is_file():
        raise UserError(f"{file} does not exist; run this in the repository's folder.")
    try:
        return Study.model_validate(read_yaml(file))
    except ValidationError as error:
        raise UserError(f"{file} is not a list of claims: {error}") from error


def level_of(name: str) -> Level:
    """
    Raises:
        UserError: there is none of this name.
    """
    levels = read_study().levels
    if name not in levels:
        raise UserError(f"no level is called {name}; there are {', '.join(levels)} (study/claims.yaml).")
    return levels[name]


def preset_of(name: str, level: Level) -> Path:
    """
    Raises:
        UserError: it has none.
    """
    if level.preset is None:
        raise UserError(f"level {name} cannot be run here: it needs {level.needs}.")
    return level.preset
