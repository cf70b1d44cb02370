"""`epsilon-dpo champion` in one call: what the champion is, where its weights are, and on request the weights."""

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_data.hashfile.hash_info import HashInfo

from epsilon_dpo.mlflow_writer.registry import Version, opened
from epsilon_dpo.pipeline.observability.errors import UserError, first_line
from epsilon_dpo.pipeline.stage.files import atomic_folder
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.provenance.graph.project import said_plainly
from epsilon_dpo.provenance.whence.content import Cache

NEEDED = ("run", "policy_sha256", "dvc_path", "dvc_out", "dvc_md5", "decision")


def champion(asked: argparse.Namespace) -> str:
    """What to print of the champion; with `out` also copies its weights there.

    Args:
        asked: name (of the registered model) and out (a folder to make, or None).

    Raises:
        UserError: there is no champion, or none of `promote`; its weights are nowhere, or not those that it was
            promoted with; `out` exists.
    """
    with opened(asked.name) as registry:
        version = registry.champion()
    if version is None:
        raise UserError(f"no version of {asked.name} is the champion; `epsilon-dpo promote RUN` makes one.")
    if missing := [name for name in NEEDED if name not in version.tags]:
        raise UserError(
            f"version {version.number} of {asked.name} has the alias champion and no tag {missing[0]}: it was given by "
            "hand, so nothing is known of its weights."
        )
    if asked.out is None:
        return "\n".join([*_described(version), *_row("weights", _nearest(version.tags, asked.name))])
    if asked.out.exists():
        raise UserError(f"{asked.out} exists; name a folder to make.")
    source = _fetch(version.tags, asked.out)
    said = f"{asked.out}, from {source}; their sha256 is that of the registry"
    return "\n".join([*_described(version), *_row("weights", said)])


def _described(version: Version) -> list[str]:
    tags = version.tags
    return [
        f"{version.name}, version {version.number}: run {tags['run']}",
        *_row("promoted", tags["decision"]),
        *_row("policy", f"sha256 {tags['policy_sha256']}"),
        *_row("DVC", f"{tags['dvc_path']} of {tags['dvc_out']}, md5 {tags['dvc_md5']}"),
        *_row("commit", tags.get("git_commit", "none records it yet: commit dvc.lock")),
    ]


def _row(name: str, text: str) -> list[str]:
    return [f"  {name:<10}{text}"]


def _is_here(tags: Mapping[str, str]) -> bool:
    path = Path(tags["dvc_path"])
    return path.is_dir() and digest(path, remember=False) == tags["policy_sha256"]


def _nearest(tags: Mapping[str, str], name: str) -> str:
    if _is_here(tags):
        return f"{tags['dvc_path']} has this sha256"
    return f"epsilon-dpo champion --name {name} --out DIR"


def _fetch(tags: Mapping[str, str], target: Path) -> str:
    """Copy the weights to `target`, complete and checked or not at all; returns where they were found.

    Raises:
        UserError: they are nowhere, or other than the registry says.
    """
    files, source = _files(tags)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(target) as folder:
        for name, file in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / name)
        found = digest(folder, remember=False)
        if found != tags["policy_sha256"]:
            raise UserError(
                f"the weights in {source} have the sha256 {found} and the champion {tags['policy_sha256']}: they are "
                "not the policy that was promoted, and are not copied."
            )
    return source


def _files(tags: Mapping[str, str]) -> tuple[dict[str, Path], str]:
    """The files of the policy by name, and where they were found: in out/, in DVC's cache or its remote."""
    if _is_here(tags):
        folder = Path(tags["dvc_path"])
        return {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}, str(folder)
    if found := _cached(tags):
        return found, "DVC's cache"
    _pull(tags)
    if found := _cached(tags):
        return found, "DVC's remote"
    raise UserError(
        f"{tags['dvc_out']} with the md5 {tags['dvc_md5']} is neither in out/ nor in DVC's cache nor in its remote; "
        "where it was promoted, `dvc push` sends it there."
    )


def _cached(tags: Mapping[str, str]) -> dict[str, Path]:
    """All files of the policy in DVC's cache; none if one is absent."""
    cache = Cache(Path.cwd())
    inside = f"{Path(tags['dvc_path']).relative_to(tags['dvc_out'])}/"
    members = {name: md5 for name, md5 in (cache.members(tags["dvc_md5"]) or {}).items() if name.startswith(inside)}
    files = {name.removeprefix(inside): cache.file(md5) for name, md5 in members.items()}
    return {name: file for name, file in files.items() if file is not None} if all(files.values()) else {}


def _pull(tags: Mapping[str, str]) -> None:
    """Fetch the output into DVC's cache: first the list of its files, then these.

    Raises:
        UserError: there is no remote, or it does not answer.
    """
    with said_plainly():
        repo = Repo(".")
    try:
        repo.cloud.pull([HashInfo("md5", tags["dvc_md5"])])
        members = Cache(Path.cwd()).members(tags["dvc_md5"]) or {}
        repo.cloud.pull([HashInfo("md5", md5) for md5 in members.values()])
    except DvcException as error:
        raise UserError(
            f"the champion's weights are neither in out/ nor in DVC's cache, and not fetched: {first_line(error)}."
        ) from None
