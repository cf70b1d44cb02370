"""What is known of a file's origin, as one JSON object: from the locks, the cache, the manifest and MLflow's store."""

import os
from collections.abc import Iterator
from contextlib import chdir, suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path, PurePosixPath

from epsilon_dpo.judging.scorer.code import MADE_WITH
from epsilon_dpo.methods.registry import online_method_names
from epsilon_dpo.pipeline.observability.errors import UserError, first_line, redacted
from epsilon_dpo.pipeline.stage.files import Json, read_json
from epsilon_dpo.pipeline.stage.fingerprint import MANIFEST, dependencies, file_digest, fingerprint, stage_entry
from epsilon_dpo.pipeline.stage.manifest import manifest_of, portable, read_manifest, weights_digests
from epsilon_dpo.provenance.whence.content import Cache, members_of
from epsilon_dpo.provenance.whence.descent import stale
from epsilon_dpo.provenance.whence.locks import Lock, all_locks, is_cut_off
from epsilon_dpo.provenance.whence.search import Difference, Place, Records, is_empty
from epsilon_dpo.provenance.whence.sentences import (
    altered,
    empty,
    never_seen,
    older_commits,
    other_than_recorded,
    other_weights,
)

SCORER, OF_METHODS = "scorer", "out/scorer/"  # what online runs are made with, in a folder per method
# Outputs beside that of the stage's model; the teacher has no manifest.
NO_MODEL = ("out/base/tokenizer", "out/align/metrics", "out/teacher")
STAGE_OF = {"data": "fetch", "base": "base"}


def origin(path: Path, root: Path | None) -> Json:
    """Where `path` comes from.

    Args:
        root: of the DVC project in whose results it is looked for; None: there is none.

    Returns:
        `file`; `found`, and then `path`, `stage`, `also` (its other places; `elsewhere`: in other locks), `params`,
        `packages` (versions by name), `recorded_by`, `data`, `base`, `not_known` (by name why data or base is null, or
        packages are not all), `mlflow`, `parents`, `doubts` (manifests of these that name another stage or other params
        than the lock does), `known_by` (content or manifest), `manifest`; or else `message`, a sentence, and `differs`
        from what.

    Raises:
        UserError: there is no such file, or nothing to look in.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; name a file or folder.")
    members = members_of(path, root and root / ".dvcignore")
    if not members:
        raise UserError(f"{path} holds no file; name a file, or a folder with some.")
    said, wrong = _manifest(path)
    known: Json = {"file": str(path), "manifest": said}
    if root is None:
        return known | _outside(path, said, wrong)
    records = Records(all_locks(root), Cache(root), is_cut_off(root))
    if not records.locks and said is None:
        raise UserError(
            f"{root} has no dvc.lock, in the workspace or in a commit; `dvc repro` makes it{older_commits(records)}."
        )
    inside = _inside(path, root)
    places = records.find(members, inside)
    if not places:
        return known | _not_found(path, root, records, records.nearest(path, members), said, wrong)
    if is_empty(members) and places[0].path != inside:
        nearest = records.nearest(path, members)
        return known | _unknown(empty(path, places), nearest if nearest and nearest.byte is not None else None)
    known["manifest"] = None if wrong else said
    return known | {"found": True, "known_by": "content"} | _from_places(root, records, places)


def _outside(path: Path, said: Json | None, wrong: list[str]) -> Json:
    """What is known of a file in no project: what its manifest says; `said` and `wrong` as of _manifest."""
    if said is None:
        raise UserError(
            f"{path} is in no DVC project, and neither is the working folder: run this in the project that may have "
            f"made it; only a model folder with its {MANIFEST} says something by itself."
        )
    return _unknown(other_weights(path, wrong)) if wrong else _alone("there is no DVC project here")


def _inside(path: Path, root: Path) -> str:
    """Its path from the project's root, of a link into DVC's cache that of the link; empty if it is not in there."""
    link = Path(os.path.abspath(path))
    for full in (path.resolve(), link.parent.resolve() / link.name):
        if full.is_relative_to(root) and not full.is_relative_to(root / ".dvc"):
            return str(PurePosixPath(full.relative_to(root)))
    return ""


def _manifest(path: Path) -> tuple[Json | None, list[str]]:
    """What the model folder that `path` is, or is a file of weights in, says of itself; and its weights that are other
    than it says."""
    folder = path if path.is_dir() else path.parent
    try:
        said = read_manifest(folder)
    except ValueError:
        said = None
    if said is None or (path.is_file() and path.name not in said["weights_sha256"]):
        return None, []
    expected = said["weights_sha256"]
    if path.is_file():
        return said, [path.name] if file_digest(path, remember=False) != expected[path.name] else []
    found = weights_digests(folder, remember=False)
    return said, sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def _not_found(
    path: Path, root: Path, records: Records, nearest: Difference | None, said: Json | None, wrong: list[str]
) -> Json:
    if wrong:
        return _unknown(other_weights(path, wrong), nearest)
    same_weights = nearest is not None and said is not None and not set(nearest.changed) & set(said["weights_sha256"])
    if said is not None and (not same_weights or path.is_file()):
        return _by_manifest(path, root, records, said, nearest)
    if nearest is None:
        return _unknown(never_seen(path, records, _inside(path, root)))
    return _unknown(altered(path, nearest, records), nearest)


def _unknown(message: str, nearest: Difference | None = None) -> Json:
    """The answer where no record has the content: `message`, and how it differs from what is nearest to it."""
    return {"found": False, "message": message} | ({"differs": _differs(nearest)} if nearest else {})


def _alone(why: str) -> Json:
    note = f"its weights have the sha256 that it names; {why}, so that nothing else could be checked"
    return {"found": True, "known_by": "manifest", "note": note}


def _by_manifest(path: Path, root: Path, records: Records, said: Json, nearest: Difference | None) -> Json:
    """A model in none of the outputs that can be looked into: the stage that had its params, if its own cannot be.

    Other data can have been behind the same params, so that of it and of the base model only the manifest is believed.
    """
    models, name = _models(said), _stage_of(said)
    claimed = list(_claimed(records, models, name))
    if not claimed:
        return _alone(f"no dvc.lock of this project records it{older_commits(records)}")
    places = [place for place in claimed if records.cache.members(place.lock.stages[name].outs[place.path]) is None]
    if not places:
        return _unknown(other_than_recorded(path, name, records), nearest)
    note = (
        f"its weights have the sha256 that its {MANIFEST} names, and a dvc.lock records that stage, and those of the "
        "models that it began as, with its params; "
        f"the list of the files of {places[0].path} is not in DVC's cache, so that nothing else could be checked"
    )
    facts = next((model["dataset"] for model in models if model.get("dataset")), None)
    found = _from_places(root, records, places)
    return (
        {"found": True, "known_by": "manifest", "note": note}
        | found
        | {
            "data": facts and {"params": None, "out": None, "md5": None, "dataset": facts},
            "base": next((model["params"].get("base") for model in models if model["stage"] == "base"), None),
            "not_known": {name: why for name, why in found["not_known"].items() if name not in STAGE_OF},
        }
    )


def _claimed(records: Records, models: list[Json], stage: str) -> Iterator[Place]:
    """The outputs of `stage` with a model, in the locks that record all of `models` with their params."""
    for lock in records.locks:
        if all(_has_its_params(lock, model) for model in models):
            outs = lock.stages[stage].outs
            yield from (Place(lock, stage, out) for out in outs if not out.startswith(NO_MODEL))


def _models(said: Json) -> list[Json]:
    """A manifest and those in it, of the models that its weights began as."""
    models: list[Json] = []
    model: Json | None = said
    while isinstance(model, dict) and isinstance(model.get("stage"), str):  # a model of another program has none
        models.append({"params": {}} | model)
        model = model.get("start")
    return models


def _stage_of(said: Json) -> str:
    return said["stage"] + (f"@{said['run']}" if said.get("run") else "")


def _has_its_params(lock: Lock, said: Json) -> bool:
    """Whether the stage that `said` names had the params there."""
    entry = lock.stages.get(_stage_of(said))
    return entry is not None and portable(entry.params) == said["params"]


def _from_places(root: Path, records: Records, places: list[Place]) -> Json:
    first = _with_its_past(records, places)
    lock, entry = first.lock, first.lock.stages[first.stage]
    origins = _origins(records, first)
    stages = records.descent(first).stages
    in_workspace = any(place.lock.in_workspace and _made_alike(place, first) for place in places)
    found: dict[tuple[str, str], list[Lock]] = {}
    main: list[Lock] = []
    for place in places:
        same = _made_alike(place, first) and _origins(records, place) == origins
        (main if same else found.setdefault((place.path, place.stage), [])).append(place.lock)
    return {
        "path": first.path,
        "stage": first.stage,
        "also": [
            {
                "path": path,
                "stage": stage,
                "recorded_by": _recorded_by(locks),
                "elsewhere": not any(lock in main for lock in locks),
            }
            for (path, stage), locks in found.items()
        ],
        "recorded_by": _recorded_by(main),
        "params": entry.params,
        "packages": dict(sorted((entry.pins | (_scored_with(records, first) or {})).items())),
        **origins,
        "mlflow": _mlflow(root, records, first, in_workspace),
        "parents": [_parent(lock, name, records.cache) for name in stages],
        "doubts": [doubt for name in stages for doubt in _doubts(lock, name, records.cache)],
    }


def _with_its_past(records: Records, places: list[Place]) -> Place:
    """The first place, or the same in a lock that still has all that it was made from, if that of the first has not."""
    first = places[0]
    params = first.lock.stages[first.stage].params
    alike = [
        place
        for place in places
        if (place.path, place.stage) == (first.path, first.stage) and place.lock.stages[place.stage].params == params
    ]
    alike.sort(key=lambda place: not _made_alike(place, first))
    return next((place for place in alike if not records.descent(place).stale), first)


def _made_alike(one: Place, other: Place) -> bool:
    """Whether two places are one path, made by one stage from the same."""
    return (one.path, one.lock.stages[one.stage]) == (other.path, other.lock.stages[other.stage])


def _origins(records: Records, place: Place) -> Json:
    """`data` and `base` where they are proven, and by name in `not_known` why one is not, or packages are not all."""
    lock, past = place.lock, records.descent(place)
    before = lock.ancestors(place.stage)
    lost = [name for name, stage in STAGE_OF.items() if stage in before and stage not in past.proven]
    lost += ["packages"] if _scored_with(records, place) is None else []
    why = f"its lock has another {', '.join(past.stale)} by now{older_commits(records)}"
    if not past.stale:
        why = "the lists of files that lead there are not in DVC's cache"
    return {
        "data": _data(lock, records.cache) if "fetch" in past.proven else None,
        "base": lock.stages["base"].params.get("base") if "base" in past.proven else None,
        "not_known": dict.fromkeys(lost, why),
    }


def _scored_with(records: Records, place: Place) -> Json | None:
    """The packages of an online run that stage scorer alone records, by version; None: the run is one, and what it read
    of that stage is not at hand. Empty for a run that learns from pairs, and for a stage that trains no run."""
    read = place.lock.stages[place.stage].deps
    folder = next((path for path in read if path.startswith(OF_METHODS)), "")
    if PurePosixPath(folder).name not in online_method_names():
        return {}
    if SCORER not in records.descent(place).proven:
        return None
    own = records.members(Place(place.lock, SCORER, f"{folder}/{MADE_WITH}"))
    if not own:  # of a version in which stage align had all of them itself
        return {}
    file = records.cache.file(own[""])
    packages: Json | None = None if file is None else read_json(file)["packages"]
    return packages


def _recorded_by(locks: list[Lock]) -> list[Json]:
    commits = {commit.sha: asdict(commit) for lock in locks for commit in lock.commits}
    return [{"workspace": True}] * any(lock.in_workspace for lock in locks) + list(commits.values())


def _parent(lock: Lock, name: str, cache: Cache) -> Json:
    """A stage with what it made and read; `stale`: what its lock holds in another version than it read."""
    entry = lock.stages[name]
    read = {path: entry.deps[path] for path in entry.data_deps}
    return {"stage": name, "outs": entry.outs, "read": read, "stale": stale(lock, name, cache)}


def _doubts(lock: Lock, stage: str, cache: Cache) -> Iterator[Json]:
    """The manifests in the outputs of `stage` that say otherwise than `lock`, as after `dvc commit -f` of other params.

    Yields:
        `stage`; `manifest`, its path; `named`, the stage that it names; `params` that the lock has not so, and
        `recorded`, those of the lock that it has not so.
    """
    recorded = portable(lock.stages[stage].params)
    for out, md5 in lock.stages[stage].outs.items():
        for name, own in (cache.members(md5) or {}).items():
            said = _said(cache.file(own)) if PurePosixPath(name).name == MANIFEST else None
            if said and (_stage_of(said), said["params"]) != (stage, recorded):
                yield {
                    **{"stage": stage, "manifest": f"{out}/{name}".rstrip("/"), "named": _stage_of(said)},
                    "params": _beside(said["params"], recorded),
                    "recorded": _beside(recorded, said["params"]),
                }


def _said(manifest: Path | None) -> Json | None:
    with suppress(ValueError):
        return None if manifest is None else manifest_of(manifest)
    return None


def _beside(params: Json, others: Json) -> Json:
    """Those of `params` that `others` have otherwise or not at all."""
    return {key: value for key, value in params.items() if key not in others or others[key] != value}


def _data(lock: Lock, cache: Cache) -> Json:
    """The block `fetch`, the md5 of what it made, and the dataset's own facts, which have the digest of each file."""
    entry = lock.stages["fetch"]
    out, md5 = next(iter(entry.outs.items()))
    facts = cache.file((cache.members(md5) or {}).get("dataset.json", "-"))
    return {"params": entry.params.get("fetch"), "out": out, "md5": md5, "dataset": facts and read_json(facts)}


def _mlflow(root: Path, records: Records, place: Place, in_workspace: bool) -> Json | None:
    """The MLflow run of the stage; `failed`: why the store could not be read.

    Args:
        in_workspace: whether dvc.lock of the workspace has it, too, made from the same.
    """
    entry = place.lock.stages[place.stage]
    policy = _policy_sha256(records, place) if place.stage.startswith("align@") else None
    made_from = _fingerprint(root, place.stage) if in_workspace and policy is None else None
    try:
        from epsilon_dpo.mlflow_writer.reading import recorded_run  # imports mlflow: not where a file is unknown

        return recorded_run(root, place.stage, entry.params, policy, made_from)
    except Exception as error:  # whatever a store and its server raise: what else is known is said all the same
        return {"failed": redacted(first_line(error))}


def _policy_sha256(records: Records, place: Place) -> str | None:
    """fingerprint.digest of the run's final model, from the cache; None if that lacks a file of it, or `place` is in an
    output without a model."""
    outs = place.lock.stages[place.stage].outs
    out = next(out for out in outs if place.path == out or place.path.startswith(f"{out}/"))
    members = records.members(Place(place.lock, place.stage, f"{out}/model"))
    total = sha256()
    for name in sorted(members, key=Path):
        if Path(name).name != MANIFEST:
            file = records.cache.file(members[name])
            if file is None:
                return None
            total.update(name.encode() + b"\0" + bytes.fromhex(file_digest(file, remember=False)))
    return total.hexdigest() if members else None


def _fingerprint(root: Path, stage: str) -> str | None:
    """That of the workspace, which is that of the result if nothing has changed since; None if a part is absent."""
    name, _, run = stage.partition("@")
    with suppress(UserError, KeyError), chdir(root):
        entry = stage_entry(name, run or None)
        return fingerprint(entry, dependencies(entry, remember=False))
    return None


def _differs(nearest: Difference) -> Json:
    place = nearest.place
    return {
        "from": place.path,
        "stage": place.stage,
        "recorded_by": _recorded_by([place.lock]),
        "first_differing_byte": nearest.byte,
        "changed": nearest.changed,
        "missing": nearest.missing,
        "added": nearest.added,
    }
