"""`epsilon-dpo champion` in one call: what the champion is, where its weights are, and on request the weights."""

import argparse
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

from epsilon_dpo.mlflow_writer.registry import Version, champion_of
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import new_folder
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.pipeline.stage.ignored import seen_files
from epsilon_dpo.pipeline.stage.manifest import is_adapter
from epsilon_dpo.provenance.champion.remote import fetch
from epsilon_dpo.provenance.whence.asked import project_of
from epsilon_dpo.provenance.whence.content import Cache

OF_WEIGHTS = ("policy_sha256", "dvc_path", "dvc_out", "dvc_md5")
NEEDED = ("run", *OF_WEIGHTS, "decision")
BASE = "base."  # before a tag: of what the policy is an adapter on


def champion(asked: argparse.Namespace) -> str:
    """What to print of the champion of the project that the working folder is in; with `out` also copies its weights,
    those of an adapter merged into its base.

    Without `out` nothing is written anywhere, and MLflow's store is not made where there is none.

    Args:
        asked: name (of the registered model) and out (a folder to make, or None).

    Raises:
        UserError: there is no champion, or none of `promote`; its weights are nowhere, or not those that it was
            promoted with; `out` exists or cannot be made.
    """
    if asked.out is not None and os.path.lexists(asked.out):  # before minutes of fetching
        raise UserError(f"{asked.out} exists; name a folder to make.")
    target = None if asked.out is None else asked.out.absolute()
    with chdir(project_of(Path.cwd()) or Path.cwd()):
        return _answer(asked.name, target, asked.out)


def _answer(name: str, target: Path | None, shown: Path | None) -> str:
    version = champion_of(name, Path.cwd())
    if version is None:
        raise UserError(f"no version of {name} is the champion; `epsilon-dpo promote RUN` makes one.")
    if missing := [tag for tag in NEEDED if tag not in version.tags]:
        raise UserError(
            f"version {version.number} of {name} has the alias champion and no tag {missing[0]}: it was given by "
            "hand, so nothing is known of its weights."
        )
    for base in _bases(version.tags):
        if missing := [tag for tag in OF_WEIGHTS if tag not in base]:
            raise UserError(
                f"version {version.number} of {name} has no tag {missing[0]} of what the policy is an adapter on; "
                f"`epsilon-dpo promote {version.tags['run']}` adds it."
            )
    if target is None:
        said = _nearest(version.tags, name)
    elif f"{BASE}dvc_path" in version.tags:
        said = f"{shown}, merged from {_copy(version.tags, target)}; the sha256 of its parts are those of the registry"
    else:
        said = f"{shown}, from {_copy(version.tags, target)}; their sha256 is that of the registry"
    return "\n".join([*_described(version), _row("weights", said)])


def _described(version: Version) -> Iterator[str]:
    tags = version.tags
    yield f"{version.name}, version {version.number}: run {tags['run']}"
    yield _row("promoted", tags["decision"])
    yield _row("policy", f"sha256 {tags['policy_sha256']}")
    yield _row("DVC", f"{tags['dvc_path']} of {tags['dvc_out']}, md5 {tags['dvc_md5']}")
    unknown = "none recorded it when it was promoted: commit dvc.lock, then promote it again"
    yield _row("commit", tags.get("git_commit", unknown))
    for base in _bases(tags):
        place = f"{base['dvc_path']} of {base['dvc_out']}, md5 {base['dvc_md5']}"
        yield _row("adapter", f"on {place}; sha256 {base['policy_sha256']}")


def _row(name: str, text: str) -> str:
    return f"  {name:<10}{text}"


def _bases(tags: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The tags of what a policy is an adapter on; then of what that is an adapter on, and so on."""
    while tags := {tag.removeprefix(BASE): value for tag, value in tags.items() if tag.startswith(BASE)}:
        yield dict(tags)


def _is_here(tags: Mapping[str, str]) -> bool:
    path = Path(tags["dvc_path"])
    return path.is_dir() and digest(path, remember=False) == tags["policy_sha256"]


def _nearest(tags: Mapping[str, str], name: str) -> str:
    if all(map(_is_here, (tags, *_bases(tags)))):
        return f"{tags['dvc_path']} has this sha256"
    return f"epsilon-dpo champion --name {name} --out DIR"


def _copy(tags: Mapping[str, str], target: Path) -> str:
    """Copy the weights to `target`, complete and checked or not at all; returns where they were found.

    Raises:
        UserError: they are nowhere, or other than the registry says; `target` exists or cannot be made.
    """
    with new_folder(target) as folder:
        if f"{BASE}dvc_path" in tags:
            return _merge(tags, folder)
        source = _put(tags, folder)
        if is_adapter(folder):
            raise UserError(
                f"the policy is an adapter, and its version does not say on what: `epsilon-dpo promote {tags['run']}`, "
                "run where out/ has both, adds that."
            )
        return source


def _merge(tags: Mapping[str, str], folder: Path) -> str:
    """Fill `folder` with the policy of an adapter; returns where it and its base were found.

    An adapter names its base by its place in the project, where another may lie by now: so each is put into such a
    place of a folder of its own.
    """
    from epsilon_dpo.models.policy.folder import write_merged  # here, because other champions need no torch

    with TemporaryDirectory(dir=folder) as name:
        project = Path(name)
        sources = [_put(each, _inside(project, each)) for each in (tags, *_bases(tags))]
        write_merged(project / tags["dvc_path"], folder, remember=False)
    return " and ".join(dict.fromkeys(sources))


def _inside(project: Path, tags: Mapping[str, str]) -> Path:
    """The place of a model in the folder `project`."""
    if Path(tags["dvc_path"]).is_absolute() or ".." in Path(tags["dvc_path"]).parts:
        raise UserError(f"{tags['dvc_path']} is no place in a project: the tags of the version were changed by hand.")
    return project / tags["dvc_path"]


def _put(tags: Mapping[str, str], folder: Path) -> str:
    """Copy the files of a model to `folder` and check them; returns where they were found."""
    files, source = _files(tags)
    for name, file in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / name)
    found = digest(folder, remember=False)
    if found != tags["policy_sha256"]:
        raise UserError(
            f"the weights in {source} have the sha256 {found}, and {tags['dvc_path']} had {tags['policy_sha256']} when "
            "it was promoted: they are not the same, and are not copied."
        )
    return source


def _files(tags: Mapping[str, str]) -> tuple[dict[str, Path], str]:
    """The files of the policy by name, and where they were found: in out/, in DVC's cache or its remote."""
    if _is_here(tags):
        folder = Path(tags["dvc_path"])
        return {str(file.relative_to(folder)): file for file in seen_files(folder)}, str(folder)
    if found := _cached(tags):
        return found, "DVC's cache"
    fetch(Path.cwd(), tags["dvc_md5"])
    if found := _cached(tags):
        return found, "DVC's remote"
    raise UserError(
        f"{tags['dvc_out']} with the md5 {tags['dvc_md5']} came from DVC's remote and holds no {tags['dvc_path']}: the "
        "tags of the version were changed by hand."
    )


def _cached(tags: Mapping[str, str]) -> dict[str, Path]:
    """All files of the policy in DVC's cache; none if one is absent."""
    cache = Cache(Path.cwd())
    if not Path(tags["dvc_path"]).is_relative_to(tags["dvc_out"]):
        return {}
    inside = Path(tags["dvc_path"]).relative_to(tags["dvc_out"])  # "." where the output is the model itself
    members = {Path(name): md5 for name, md5 in (cache.members(tags["dvc_md5"]) or {}).items()}
    files = {
        str(name.relative_to(inside)): cache.file(md5) for name, md5 in members.items() if name.is_relative_to(inside)
    }
    return {name: file for name, file in files.items() if file is not None} if all(files.values()) else {}
