"""A stage's outputs against those that dvc.lock records: file by file, by md5 first, then by what a file holds."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from epsilon_dpo.pipeline.stage.files import read_jsonl
from epsilon_dpo.provenance.verify.findings import (
    BIT_EQUAL,
    DIFFERENT,
    DIGEST,
    WITHIN,
    FileDifference,
    Place,
    gathered,
    text_place,
    tolerance,
)
from epsilon_dpo.provenance.verify.tensors import tensor_places
from epsilon_dpo.provenance.verify.values import (
    byte_places,
    csv_places,
    json_places,
    jsonl_places,
    readable,
    text_places,
)

CURVE = "metrics.jsonl"  # of a training: a row per optimizer step
PLACES: dict[str, tuple[Callable[[Path, Path], Iterator[Place]], str]] = {
    ".safetensors": (tensor_places, "tensors"),
    ".json": (json_places, "values"),
    ".jsonl": (jsonl_places, "values"),
    ".csv": (csv_places, "values"),
}
LINES = (text_places, "lines")


@dataclass(frozen=True)
class Versions:
    """One file of an output, before and now.

    Attributes:
        name: its path from the project's root.
        recorded: a file with the recorded bytes; None: they are nowhere, or the file was not there.
        remade: None: it was not made again.
        known: whether dvc.lock records it.
    """

    name: str
    recorded: Path | None
    remade: Path | None
    known: bool = True


def differences(changed: Mapping[str, Versions]) -> list[FileDifference]:
    """How each of the files whose md5 differs does so, by name; a training's curve and weights come first."""
    found = (_difference(changed[name]) for name in sorted(changed, key=_order))
    return [difference for difference in found if difference is not None]


def verdict(found: list[FileDifference], steps: int) -> str:
    """What the differences of a stage come to; none is BIT_EQUAL.

    A digest counts for nothing beside what it is the digest of, and as a difference where it alone differs.
    """
    if not found:
        return BIT_EQUAL
    if all(difference.kinds == {DIGEST} for difference in found):
        return DIFFERENT
    return WITHIN if all(difference.within(tolerance(steps)) for difference in found) else DIFFERENT


def steps_behind(files: Mapping[str, Path | None]) -> int:
    """Optimizer steps of the training that these recorded files, by name, are of; 0 if of none."""
    curve = next((path for name, path in files.items() if PurePosixPath(name).name == CURVE and path), None)
    rows = read_jsonl(curve) if curve else []
    return max((int(row.get("step", 0)) for row in rows if isinstance(row, dict)), default=0)


def _difference(file: Versions) -> FileDifference | None:
    if file.remade is None or not file.known:
        there = ["a file", "no such file"] if file.remade is None else ["no such file", "a file"]
        return gathered(file.name, [text_place("the file", *there)], "files")
    if file.recorded is None:
        nowhere = "bytes that neither the workspace nor DVC's cache has"
        return gathered(file.name, [text_place("the file", nowhere, "others")], "files")
    places, unit = PLACES.get(file.remade.suffix, LINES)
    found = gathered(file.name, readable(places, file.recorded, file.remade), unit)
    # The same content in other bytes: layout, order of keys; the end of a line, or of the file.
    found = found or gathered(file.name, text_places(file.recorded, file.remade), "lines")
    return found or gathered(file.name, byte_places(file.recorded, file.remade), "files")


def _order(name: str) -> tuple[int, str]:
    path = PurePosixPath(name)
    return (0 if path.name == CURVE else 1 if path.suffix == ".safetensors" else 2, name)
