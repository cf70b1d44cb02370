"""`epsilon-dpo verify` in one call: run stages again in a clean folder, say what came out, write the certificate."""

import argparse
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dvc.stage import PipelineStage

from epsilon_dpo.pipeline.observability.errors import UserError, printable
from epsilon_dpo.pipeline.stage.fingerprint import scratch_root
from epsilon_dpo.pipeline.stage.workplace import workplace
from epsilon_dpo.provenance.graph.project import Project, at_work, open_project
from epsilon_dpo.provenance.verify.causes import SECOND_FAILED, is_proved, likely_cause
from epsilon_dpo.provenance.verify.certificate import FOLDER, SHOWN_FILES, Outcome, write_certificate
from epsilon_dpo.provenance.verify.clean import DIFFERENT_OUTPUTS, CleanFolder
from epsilon_dpo.provenance.verify.compare import Versions, differences, steps_behind, verdict
from epsilon_dpo.provenance.verify.findings import BIT_EQUAL, DIFFERENT, FAILED, WITHIN, tolerance
from epsilon_dpo.provenance.verify.recorded import Content, Records
from epsilon_dpo.provenance.verify.surroundings import ours, recorded

NOT_RUN = "not run again"
KEPT = "verify"  # in scratch/: the folder of the last verification that found a difference


def verify(asked: argparse.Namespace) -> str:
    """Print a line per stage as it is done; returns the last, with what was found.

    Args:
        asked: stages (names, or none for all), sample (how many of them, or None), folder (None: one of its own) and
            trials (whether a stage that differs is run once more to find the cause).

    Raises:
        UserError: a stage is not what dvc.lock records, or could not be run; DVC cannot read the project.
    """
    project = open_project()
    if busy := at_work(project.repo):
        raise UserError(f"another process writes the outputs of this project ({busy}); wait for it.")
    if not (project.root / "dvc.lock").exists():
        raise UserError("there is no dvc.lock, so no result to verify; run `dvc repro` first.")
    stages = chosen(project, asked.stages, asked.sample)
    with _folder(asked.folder) as folder:
        verification = Verification(project, stages, folder, asked.trials)
        for stage in stages:
            _say(verification.check(stage))
        certificate = write_certificate(
            project.root, folder, verification.records, verification.outcomes, verification.now
        )
        good = all(outcome.verdict in (BIT_EQUAL, WITHIN) or outcome.is_behind for outcome in verification.outcomes)
        where = asked.folder or (None if good else _keep(folder))
    said = _summary(verification.outcomes)
    if certificate:
        said += f"; the certificate is {certificate.relative_to(project.root)}"
    if where and any(outcome.found for outcome in verification.outcomes):
        said += f"; what differs is in {where / DIFFERENT_OUTPUTS}"
    elif where:
        said += f"; what was made again is in {where}"
    if not good:
        raise UserError(f"{said}.")
    return f"{said}."


def chosen(project: Project, names: Sequence[str], sample: int | None) -> list[PipelineStage]:
    """The stages in the order of `dvc repro`; `align` names those of all runs.

    Args:
        sample: how many to draw, by the content of dvc.lock: the same ones for the same results. None: all.

    Raises:
        UserError: dvc.yaml has no such stage.
    """
    known = {stage.addressing for stage in project.stages}
    wanted = set() if names else known
    for asked in names:
        if not (found := {name for name in known if asked in (name, name.partition("@")[0])}):
            raise UserError(f"dvc.yaml has no stage {asked!r}; `dvc stage list` names them.")
        wanted |= found
    if sample is not None and sample < len(wanted):
        wanted = set(random.Random((project.root / "dvc.lock").read_bytes()).sample(sorted(wanted), sample))
    return [stage for stage in project.stages if stage.addressing in wanted]


class Verification:
    """The stages of one verification, in a clean folder."""

    def __init__(self, project: Project, stages: list[PipelineStage], folder: Path, trials: bool) -> None:
        self.project = project
        self.records = Records(project)
        self.clean = CleanFolder(folder, self.records, stages)
        self.now = ours(project.root)
        self.outcomes: list[Outcome] = []
        self._trials = trials

    def check(self, stage: PipelineStage) -> Outcome:
        """Run `stage` again and compare; the outcome is also kept."""
        outcome = self._checked(stage)
        if outcome.verdict != NOT_RUN:
            self.clean.keep(stage, outcome.verdict == BIT_EQUAL)
        self.outcomes.append(outcome)
        return outcome

    def _checked(self, stage: PipelineStage) -> Outcome:
        name = stage.addressing
        reason = self.clean.prepare(stage)
        if reason:
            return Outcome(name, NOT_RUN, why=reason, is_behind=reason.startswith(f"{FOLDER} "))
        ran = self.clean.run(stage, {})
        if ran.failed is not None:
            return Outcome(name, FAILED, ran.seconds, ran.failed)
        remade = self.clean.outputs(stage)
        if self._equal(remade):
            return Outcome(name, BIT_EQUAL, ran.seconds)
        found = differences(self._changed(remade))
        steps = steps_behind({f"{out}/{file}": self.records.bytes_of(out, file) for out, file in self._files(remade)})
        outcome = Outcome(name, verdict(found, steps), ran.seconds, found=found)
        if outcome.verdict == WITHIN:
            outcome.why = f"the tolerance is {tolerance(steps):.1e}, relative, after {steps} steps"
        differed = [other for other in self.outcomes if other.found]
        outcome.cause = likely_cause(
            found,
            recorded(self.project.root, self.clean.folder, name),
            self.now,
            steps,
            None if differed or not self._trials else lambda variables: self._once_more(stage, variables, remade),
            next((other.name for other in differed if is_proved(other.cause)), ""),
        )
        return outcome

    def _once_more(
        self, stage: PipelineStage, variables: Mapping[str, str | None], first: dict[str, Content | None]
    ) -> str:
        """As `causes.Trial`. What the first run left is in its place again afterwards."""
        aside = self.clean.folder / "scratch" / "first-run"
        for out in first:
            (aside / out).parent.mkdir(parents=True, exist_ok=True)
            if (self.clean.folder / out).exists():
                (self.clean.folder / out).rename(aside / out)
        ran = self.clean.run(stage, variables)
        remade = self.clean.outputs(stage)
        for out in first:
            if (aside / out).exists():
                shutil.rmtree(self.clean.folder / out, ignore_errors=True)
                (aside / out).rename(self.clean.folder / out)
        if ran.failed is not None:
            return f"{SECOND_FAILED}{ran.failed.replace(f'{self.clean.folder}/', '')}"
        return "recorded" if self._equal(remade) else "first" if remade == first else "other"

    def _equal(self, remade: dict[str, Content | None]) -> bool:
        """Whether every output is what dvc.lock records."""
        return all(
            self.records.outs[path].hash_info.value == (content.md5 if content else None)
            for path, content in remade.items()
        )

    def _files(self, remade: dict[str, Content | None]) -> Iterator[tuple[str, str]]:
        for out in remade:
            content = self.records.recorded(out)
            yield from ((out, file) for file in (content.files if content else ()))

    def _changed(self, remade: dict[str, Content | None]) -> dict[str, Versions]:
        found = {}
        for out, content in remade.items():
            before, after = self.records.recorded(out), content.files if content else {}
            if before is None:
                found[out] = Versions(out, None, self.clean.folder / out)
                continue
            for file in sorted({*before.files, *after}):
                if before.files.get(file) != after.get(file):
                    name = f"{out}/{file}".rstrip("/")
                    there = self.clean.folder / name if file in after else None
                    found[name] = Versions(name, self.records.bytes_of(out, file), there, file in before.files)
        return found


@contextmanager
def _folder(asked: Path | None) -> Iterator[Path]:
    """An empty folder; one of its own goes when the block ends, and if this process is killed with the next stage.

    Raises:
        UserError: `asked` is no folder or has something in it; or another verification runs.
    """
    with workplace(KEPT) as place:
        folder = (asked or place.partial).absolute()
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{asked} is no folder; name another one.")
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{asked} is not empty, and what is in it might change a result; name another folder.")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder
        finally:
            if asked is None:
                shutil.rmtree(folder, ignore_errors=True)


def _keep(folder: Path) -> Path:
    kept = scratch_root() / KEPT
    shutil.rmtree(kept, ignore_errors=True)
    folder.rename(kept)
    return kept


def _say(outcome: Outcome) -> None:
    said = f"{outcome.name:<24} {outcome.verdict:<22} {outcome.seconds:6.1f} s   {printable(outcome.why)}"
    print(said.rstrip(), flush=True)
    for difference in outcome.found[:SHOWN_FILES]:
        print(f"    {difference}", flush=True)
    if len(outcome.found) > SHOWN_FILES:
        print(f"    and {len(outcome.found) - SHOWN_FILES} more files", flush=True)
    if outcome.cause:
        print(f"    likely cause: {printable(outcome.cause)}", flush=True)


def _summary(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(outcome.verdict for outcome in outcomes)
    said = [
        f"{counts[verdict]} {verdict}" for verdict in (BIT_EQUAL, WITHIN, DIFFERENT, FAILED, NOT_RUN) if counts[verdict]
    ]
    first = next((outcome for outcome in outcomes if outcome.found), None)
    where = f"; the first to differ is {first.name} ({first.cause})" if first else ""
    return f"of {len(outcomes)} stages {', '.join(said)}{where}"
