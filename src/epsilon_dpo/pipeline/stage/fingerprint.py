"""What a stage's result is made from, as one hash: its command, its params, its pins and the bytes of its dependencies.

It is the same content that DVC records in dvc.lock after a stage has run, taken before it runs. Two things need it by
then: the scratch folder of a training (a checkpoint made with other params must never be resumed) and the tag of the
MLflow run.
"""

import functools
import hashlib
import json
import operator
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from epsilon_dpo.pipeline.observability.errors import UserError, first_line
from epsilon_dpo.pipeline.stage.ignored import seen_files
from epsilon_dpo.pipeline.stage.params import PARAMS_FILE, RUN_NAME, read_yaml

DVC_FILE = Path("dvc.yaml")
MANIFEST = "manifest.json"  # of a model folder: where it comes from (manifest.py)
REMEMBERED_BYTES = 1 << 20  # a file of this size or more is read once, not by each stage that depends on it
TICK_NS = 20_000_000  # two writes within one tick of a file system's clock leave the same time


def stage_entry(stage: str, key: str | None) -> dict[str, Any]:
    """The entry of `stage` in dvc.yaml with `${key}` and `${item.*}` filled in; `key` names one item of its foreach.

    Raises:
        UserError: the stage needs a run and got none, one that params.yaml does not hold, or one whose name could lead
            out of its folder (`dvc repro -s` runs a stage without stage check, which refuses such names too).
    """
    entry: dict[str, Any] = read_yaml(DVC_FILE)["stages"][stage]
    if "foreach" not in entry:
        return entry
    items = read_yaml(PARAMS_FILE)[entry["foreach"].removeprefix("${").removesuffix("}")]
    if key is None or key not in items:
        names = ", ".join(map(str, items))
        raise UserError(f"stage {stage} works on one run, one of {names}: `python -m stages.{stage} RUN`.")
    if not re.fullmatch(RUN_NAME, key):
        raise UserError(f"{PARAMS_FILE}: {key!r} is no name of a run; use a-z, 0-9 and _ only, at most 100 of them.")
    item = items[key]
    text = json.dumps(entry["do"]).replace("${key}", key)
    for name, value in item.items():
        text = text.replace(f"${{item.{name}}}", json.dumps(str(value))[1:-1])
    return json.loads(text)


def digest(path: Path, *, whole: bool = False, remember: bool = True) -> str:
    """sha256 of a file, or of the relative paths and contents of what DVC sees in a folder.

    Args:
        whole: with the MANIFEST of a model folder; a policy is the same policy wherever it comes from.
        remember: as of file_digest.

    Raises:
        UserError: `path` does not exist, or a file of it went away meanwhile.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; `dvc repro` makes it.")
    total = hashlib.sha256()
    for file in [path] if path.is_file() else seen_files(path):
        if file.name == MANIFEST and file != path and not whole:
            continue
        total.update(str(file.relative_to(path)).encode() + b"\0")
        try:
            total.update(bytes.fromhex(file_digest(file, remember)))
        except FileNotFoundError:  # an editor's passing file, or one that git is replacing
            raise UserError(f"{file} was removed while {path} was being read; run this again.") from None
    return total.hexdigest()


def file_digest(file: Path, remember: bool = True) -> str:
    """sha256 of a file; that of a large one is remembered in scratch/ under what changes whenever the file does.

    DVC trusts the same marks, and keeps them when it takes a file into its cache by copying.

    Args:
        remember: False where nothing may be written; what is known is used.
    """
    before = _marks(file)
    large = before[2] >= REMEMBERED_BYTES
    known = _remembered() if large else {}
    name = " ".join(map(str, before))
    if name not in known:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if not (large and remember) or _marks(file) != before or time.time_ns() - before[-1] < TICK_NS:
            return found
        known = _remembered() | {name: found}  # what another stage added meanwhile may be lost: it is read again
        _remember(known)
    return known[name]


def _marks(file: Path) -> tuple[int, ...]:
    """Where a file lies, its size in bytes, and when its content and its inode changed, in ns."""
    status = file.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _remembered() -> dict[str, str]:
    with suppress(OSError, ValueError):
        known = json.loads((scratch_root() / "digests.json").read_text("utf-8"))
        return known if isinstance(known, dict) else {}
    return {}


def _remember(known: dict[str, str]) -> None:
    """The newest thousand; where nothing can be written, nothing is remembered."""
    partial = scratch_root() / f"digests.json.{os.getpid()}"
    with suppress(OSError):
        partial.parent.mkdir(exist_ok=True)
        partial.write_text(json.dumps(dict(list(known.items())[-1000:])), "utf-8")
        partial.rename(scratch_root() / "digests.json")


def dependencies(entry: dict[str, Any], remember: bool = True) -> dict[str, str]:
    """sha256 per declared dependency, by path."""
    return {path: digest(Path(path), whole=True, remember=remember) for path in entry.get("deps", [])}


def declared_params(entry: dict[str, Any]) -> dict[str, Any]:
    """The declared params of an entry that params.yaml has, by dotted key."""
    content = read_yaml(PARAMS_FILE)
    ours = (dotted for dotted in entry.get("params", []) if not isinstance(dotted, dict))  # a dict is of another file
    return {dotted: functools.reduce(operator.getitem, dotted.split("."), content) for dotted in ours}


def declared_pins(entry: dict[str, Any]) -> dict[str, str]:
    """The declared versions of packages, by package: what `params` has as `pins.yaml: [torch, ...]`.

    Raises:
        UserError: the file is absent, or has no version of a package as a text.
    """
    found = {}
    for declared in entry.get("params", []):
        for name, packages in declared.items() if isinstance(declared, dict) else ():
            versions = read_yaml(Path(name))
            for package in packages:
                if not isinstance(pinned := versions.get(package), str):
                    raise UserError(f"{name} must state the version of {package} in quotes, and has {pinned!r}.")
                found[package] = pinned
    return found


def fingerprint(entry: dict[str, Any], deps: dict[str, str]) -> str:
    """sha256 of the command, the params, the pins and `deps`: `dependencies(entry)`, taken once: models are large."""
    return _hashed(_content(entry, deps))


def _content(entry: dict[str, Any], deps: dict[str, str]) -> dict[str, Any]:
    return {"cmd": entry["cmd"], "params": declared_params(entry), "pins": declared_pins(entry), "deps": deps}


def _hashed(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Inputs:
    """What an execution of `stage` (of run `key`) was started with.

    Attributes:
        deps: sha256 per dependency, by path.
        params: as declared_params.
        fingerprint: of all of it.

    Raises:
        UserError: as dependencies and declared_pins.
    """

    def __init__(self, stage: str, key: str | None, entry: dict[str, Any]) -> None:
        self._stage = stage, key
        self._content = _content(entry, dependencies(entry))
        self.deps, self.params = self._content["deps"], self._content["params"]
        self.fingerprint = _hashed(self._content)

    def require_unchanged(self) -> None:
        """Called when the stage's work is done. DVC records inputs as they are then: an edit meanwhile would stand in
        dvc.lock, and for good in the run cache, as what made the result.

        Raises:
            UserError: an input differs or cannot be read any more.
        """
        try:
            entry = stage_entry(*self._stage)
            changed = _changed(self._content, _content(entry, dependencies(entry)))
        except (UserError, KeyError, TypeError, AttributeError) as error:
            what = f"what it was made from could not be read again when the stage had ended: {first_line(error)}"
        else:
            if not changed:
                return
            what = f"{', '.join(changed)} changed while the stage ran"
        raise UserError(
            f"{what}. DVC would record the edit as what made the result, so nothing is published. Undo it and run "
            "this again: it resumes from what is kept. Or run it again with the edit, from its start (docs/dvc.md, "
            '"Beside a running dvc repro").'
        )


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The names of what differs: params by dotted key, pins by package, dependencies by path."""
    found = ["cmd in dvc.yaml"] if before["cmd"] != now["cmd"] else []
    for part, file in (("params", f"{PARAMS_FILE}: "), ("pins", "pins.yaml: "), ("deps", "")):
        old, new = before[part], now[part]
        found += [f"{file}{name}" for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    return found


def scratch_root() -> Path:
    """What stages keep beside their outputs: outside DVC's outs."""
    return Path(os.environ.get("DVC_ROOT", ".")) / "scratch"


def scratch_folder(name: str, fingerprint: str) -> Path:
    """Where an execution may keep what survives a crash, keyed by the fingerprint."""
    return scratch_root() / f"{name}-{fingerprint[:16]}"
