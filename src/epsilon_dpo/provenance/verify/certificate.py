"""What a verification found, as a file in certificates/ that is committed and that the report shows.

It holds no time and no place, so that the same finding is the same file: its name is the digest of its content. It says
nothing of the report itself and of what is made from it: the report shows the certificate, so its bytes follow from it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from epsilon_dpo.pipeline.stage.files import Json, write_json
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.provenance.verify.findings import BIT_EQUAL, FAILED, FileDifference
from epsilon_dpo.provenance.verify.recorded import Records

FOLDER = Path("certificates")
SHOWN_FILES = 3


@dataclass
class Outcome:
    """What became of one stage.

    Attributes:
        verdict: BIT_EQUAL, WITHIN or DIFFERENT; NOT_RUN or FAILED with the reason in `why`.
        found: how its files differ.
        cause: the likeliest, of a stage that differs.
        is_behind: not run because it has yet to show a certificate, which says nothing against it.
    """

    name: str
    verdict: str
    seconds: float = 0.0
    why: str = ""
    found: list[FileDifference] = field(default_factory=list)
    cause: str = ""
    is_behind: bool = False


def write_certificate(
    root: Path, clean: Path, records: Records, outcomes: Sequence[Outcome], environment: dict[str, str]
) -> Path | None:
    """Write what was found into `root`/certificates; None if no stage that it may speak of was run again."""
    silent = _made_from_certificates(records)
    stages = {
        outcome.name: _entry(root, clean, records, outcome)
        for outcome in outcomes
        if outcome.found or outcome.verdict in (BIT_EQUAL, FAILED)
        if outcome.name not in silent
    }
    if all(entry["verdict"] == FAILED for entry in stages.values()):  # nothing was compared
        return None
    content: Json = {
        "stages": stages,
        "stages_of_the_pipeline": len(records.project.stages) - len(silent),
        "environment": environment,
    }
    text = json.dumps(content, sort_keys=True).encode()
    file = root / FOLDER / f"{hashlib.sha256(text).hexdigest()[:12]}.json"
    file.parent.mkdir(exist_ok=True)
    write_json(file, content)
    return file


def _entry(root: Path, clean: Path, records: Records, outcome: Outcome) -> Json:
    (stage,) = (stage for stage in records.project.stages if stage.addressing == outcome.name)
    outs = {}
    for item in stage.outs:
        out = records.path(item)
        recorded = records.recorded(out)
        # The folder that holds the recorded bytes: this one if it has them, else the workspace if it still has.
        there = next(
            (folder for folder in (clean, root) if recorded and records.hashed(folder / out) == recorded), None
        )
        outs[out] = {
            "md5": None if recorded is None else recorded.md5,
            "sha256": None if there is None else digest(there / out),  # as the report computes it
        }
    entry: Json = {"verdict": outcome.verdict, "outs": outs}
    if outcome.found:
        entry["differs"] = [str(difference) for difference in outcome.found[:SHOWN_FILES]]
        entry["likely_cause"] = outcome.cause
    if outcome.verdict == FAILED:
        entry["failed"] = outcome.why.replace(f"{clean}/", "")  # no place
    return entry


def _made_from_certificates(records: Records) -> set[str]:
    """The stages that read certificates/, and all that is made from theirs."""
    found: set[str] = set()
    for stage in records.project.stages:  # in the order of `dvc repro`
        if any(records.path(dep) == str(FOLDER) for dep in records.sources(stage)) or any(
            records.outs[out].stage.addressing in found
            for dep in records.inputs(stage)
            for out in records.makers(records.path(dep))
        ):
            found.add(stage.addressing)
    return found
