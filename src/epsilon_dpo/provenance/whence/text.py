"""The answer of `epsilon-dpo whence` as text."""

import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from epsilon_dpo.pipeline.stage.files import Json
from epsilon_dpo.pipeline.stage.params import flow

CHANGED = {"true": " with uncommitted changes", "unknown": ", perhaps with uncommitted changes"}

WIDTH = 13  # of the names on the left
PAGE = 120  # characters of a line
MANY = 6  # places and commits that are listed before they are counted


def as_text(answer: Json) -> str:
    """What `origin.origin` returns, for a reader."""
    return "\n".join(_found(answer) if answer["found"] else _not_found(answer))


def _not_found(answer: Json) -> Iterator[str]:
    yield answer["message"]
    if differs := answer.get("differs"):
        yield _row("that output", f"{differs['from']}, of stage {differs['stage']}")
        yield _row("recorded by", _commits(differs["recorded_by"]))
        if differs["first_differing_byte"] is not None and any(differs["changed"]):
            at = f"byte {differs['first_differing_byte']}, counted from 0, of {differs['changed'][0]}"
            yield _row("differs from", at)


def _found(answer: Json) -> Iterator[str]:
    yield answer["file"]
    if "stage" in answer:
        yield from _recorded(answer)
    if answer["known_by"] == "manifest":
        yield _row("checked", answer["note"])
    if answer["manifest"]:
        yield from _manifest(answer["manifest"], whole=answer["known_by"] == "manifest")


def _recorded(answer: Json) -> Iterator[str]:
    yield _row("is", answer["path"])
    yield _row("made by", f"stage {answer['stage']}")
    for doubt in answer["doubts"]:
        yield _row("doubt", doubted(doubt))
    if answer["also"]:
        yield _row("also in", _listed(list(map(_also, answer["also"]))))
    yield _row("recorded by", _commits(answer["recorded_by"]))
    for n, (key, value) in enumerate(answer["params"].items()):
        yield _row("" if n else "params", f"{key}: {flow(value)}")
    if packages := answer["packages"]:
        yield _row("packages", ", ".join(f"{name} {version}" for name, version in packages.items()))
    if (data := answer["data"]) and data["out"]:  # or else the manifest below has it
        yield _row("data", f"fetch: {flow(data['params'])}")
        yield _row("", f"{data['out']} has md5 {data['md5']}")
        for name, sha256 in (data["dataset"] or {}).get("files", {}).items():
            yield _row("", f"{name} has sha256 {sha256}")
    if answer["base"]:
        yield _row("base model", flow(answer["base"]))
    for name, why in answer["not_known"].items():
        yield _row({"base": "base model"}.get(name, name), f"not {'all ' * (name == 'packages')}known: {why}")
    yield from _run(answer["mlflow"])
    yield from _parents(answer["parents"])


def doubted(doubt: Json) -> str:
    """One of `doubts` as a sentence without a full stop."""
    said, recorded = (f", {flow(doubt[of])}" * bool(doubt[of]) for of in ("params", "recorded"))
    return (
        f"{doubt['manifest']} says stage {doubt['named']}{said}, and dvc.lock says stage {doubt['stage']}{recorded}: "
        "dvc.lock was made to record what that stage did not make, as by `dvc commit -f`"
    )


def _also(place: Json) -> str:
    where = f", by {_commits(place['recorded_by'])}" if place["elsewhere"] else ""
    return f"{place['path']} ({place['stage']}{where})"


def _run(run: Json | None) -> Iterator[str]:
    if run is None:
        yield _row("MLflow run", "the store has none of this stage with these params")
        return
    if "failed" in run:
        yield _row("MLflow run", f"not looked up: {run['failed']}")
        return
    started = datetime.fromtimestamp(run["started"] / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    known = "the newest with these params" if run["known_by"] == "params" else f"known by its {run['known_by']}"
    when = f"of {started}"
    if run["rebuilt"]:
        when = f"written from the outputs on {started}; when it was trained is not known"
    yield _row("MLflow run", f"{run['name']}, {run['id']}, {when}; {known}")
    yield _row("", f"behind the address of `mlflow ui`: {run['link']}")
    ran = dict(run["environment"])
    commit, changed = ran.pop("mlflow.source.git.commit", None), ran.pop("git.uncommitted_changes", None)
    if commit:
        yield _row("code", f"commit {commit}" + CHANGED.get(changed, ""))
    if ran:
        yield _row("environment", ", ".join(f"{name} {value}" for name, value in ran.items()))


def _parents(parents: list[Json]) -> Iterator[str]:
    """One row per stage, or per foreach, whose runs read the same but for what is their own: /*."""
    rows: dict[str, tuple[list[str], list[str], list[str]]] = {}
    for parent in parents:
        stage, _, run = parent["stage"].partition("@")
        runs, read, stale = rows.setdefault(stage, ([], [], []))
        runs += [run] if run else []
        paths = [path.removesuffix(f"/{run}") + "/*" if path.endswith(f"/{run}") else path for path in parent["read"]]
        read += [path for path in paths if path not in read]
        stale += parent["stale"]
    for n, (stage, (runs, read, stale)) in enumerate(rows.items()):
        name = stage + (f"@{runs[0]}" if len(runs) == 1 else f"@{{{','.join(runs)}}}" if runs else "")
        old = f"; another {', '.join(stale)} than is recorded now" if stale else ""
        yield _row("" if n else "made from", f"{name} <- {', '.join(read) or 'nothing'}{old}")


def _manifest(said: Json, whole: bool) -> Iterator[str]:
    if not whole:
        yield _row("manifest", "lies in it, and its weights have the sha256 that it names")
        return
    label, model = "manifest", said
    while model:
        run = f"@{model['run']}" if model.get("run") else ""
        yield _row(label, f"stage {model['stage']}{run}" if "stage" in model else "a model without a manifest")
        for name in ("params", "read_md5", "dataset", "weights_sha256", "snapshot"):
            if model.get(name):
                yield _row("", f"{name}: {flow(model[name])}")
        label, model = "it began as", model.get("start") or {}


def _commits(recorded: list[Json]) -> str:
    """dvc.lock of the workspace and of each commit."""
    names = ["the workspace" if "workspace" in place else _commit(place) for place in recorded]
    return f"dvc.lock of {_listed(names, '; ')}"


def _commit(place: Json) -> str:
    what = f"experiment {place['experiment']}" if place["experiment"] else place["subject"]
    return f"{place['sha'][:10]} ({place['date']}, {what})"


def _listed(names: list[str], separator: str = ", ") -> str:
    more = len(names) - MANY
    return separator.join(names[:MANY]) + (f" and {more} more" if more > 0 else "")


def _row(name: str, text: str) -> str:
    first = f"  {name:<{WIDTH}}"
    wrap: Any = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(text, PAGE, initial_indent=first, subsequent_indent=" " * len(first), **wrap)
