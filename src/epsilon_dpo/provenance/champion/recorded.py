"""Whether out/ holds what dvc.lock records, so that the comparison in out/report is of the policies that it names."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dvc.dependency import ParamsDependency
from dvc.output import Output
from dvc.stage import PipelineStage

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Json, read_json
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.pipeline.stage.manifest import ADAPTER_CONFIG, is_adapter
from epsilon_dpo.provenance.champion.decision import SUMMARY
from epsilon_dpo.provenance.graph.project import Project, at_work, open_project
from epsilon_dpo.provenance.plan.outputs import Outputs
from epsilon_dpo.provenance.whence.origin import origin
from epsilon_dpo.provenance.whence.text import doubted

REPORT = "report"


@dataclass(frozen=True)
class Base:
    """A model on which an adapter was trained; path, out and md5 as of a Policy."""

    sha256: str
    path: str
    out: str
    md5: str


@dataclass(frozen=True)
class Policy:
    """The final policy of a run, as it stands in out/ and in dvc.lock.

    Attributes:
        path: of its model folder, from the project's root.
        out, md5: the output that the folder is in, and DVC's digest of that.
        commits: whose dvc.lock records it, newest first; those of experiments do not count.
        origin: all that is known of where it comes from, as whence's `origin`.
        bases: of an adapter, what it was trained on; if that is one, too, then what that was trained on, and so on.
    """

    run: str
    sha256: str
    path: str
    out: str
    md5: str
    commits: list[str]
    origin: Json
    bases: list[Base] = field(default_factory=list)

    @property
    def commit(self) -> str | None:
        """The newest of them; None: the workspace's dvc.lock alone records it."""
        return self.commits[0] if self.commits else None


def compared() -> tuple[Project, Json]:
    """The project in the working folder, and its report's summary.json, after a look at all that this was made from.

    Code and params may have changed since: dvc.lock says what the results were made with.

    Raises:
        UserError: this is no project; DVC writes outputs at this moment; an output, or what a stage read, is absent or
            not as dvc.lock records it.
    """
    project = open_project([REPORT])
    if busy := at_work(project.repo):
        raise UserError(f"another process writes the outputs of this project ({busy}); wait for it.")
    there = Outputs(project.repo)
    for stage in project.stages:
        for item in _recorded(project, stage):
            _require(item, there, _path(project, item), stage.addressing)
    return project, read_json(Path(SUMMARY))


def _recorded(project: Project, stage: PipelineStage) -> list[Output]:
    """The outputs of `stage`, and its inputs that other stages made, as dvc.lock has them.

    Raises:
        UserError: dvc.lock does not have the stage.
    """
    if project.locked(stage) is None:
        raise UserError(f"dvc.lock has no result of stage {stage.addressing}; run `dvc repro` first.")
    read = [dep for dep in stage.deps if not isinstance(dep, ParamsDependency)]
    return [*stage.outs, *(dep for dep in read if _path(project, dep).startswith("out/"))]


def _require(item: Output, there: Outputs, path: str, stage: str) -> None:
    """
    Raises:
        UserError: what is at `path` is not what dvc.lock records of `stage`.
    """
    if not item.hash_info:
        raise UserError(
            f"dvc.lock does not say what {path} of stage {stage} was: dvc.yaml has changed since this result; run "
            "`dvc repro` first."
        )
    if not item.exists:  # as in a clone that pulled only some; `dvc repro` would train again
        raise UserError(
            f"{path} of stage {stage} is absent, so that what out/report compares is not all here; `dvc pull {path}` "
            "fetches it."
        )
    if there.now(item) != item.hash_info:
        raise UserError(
            f"{path} is not what dvc.lock records of stage {stage}, so that out/report may speak of other policies; "
            "run `dvc repro` first."
        )


def _path(project: Project, item: Output) -> str:
    return str(Path(item.fs_path).relative_to(project.root))


def policy_of(project: Project, summary: Json, run: str) -> Policy:
    """The policy of `run` that the report compares.

    Raises:
        UserError: the report compares no such run, the model in out/ is not the policy that it speaks of, `whence` does
            not find it in dvc.lock, its manifest or that of a model behind it contradicts dvc.lock, or params.yaml has
            no such run any more.
    """
    if run not in summary["runs"]:
        raise UserError(f"out/report compares no run {run!r}; it compares {', '.join(summary['runs'])}.")
    out = f"out/align/{run}"
    folder = Path(out) / "model"
    sha256 = digest(folder)
    if sha256 != summary["runs"][run]["policy_sha256"]:
        raise UserError(f"{folder} is not the policy whose scores out/report has; run `dvc repro` first.")
    answer = origin(folder, project.root)
    if not answer["found"]:
        raise UserError(answer["message"])
    if "recorded_by" not in answer:
        raise UserError(f"whence does not find {folder} in dvc.lock: {answer['note']}; run `dvc fetch` and try again.")
    if doubts := answer["doubts"]:
        raise UserError(f"{doubted(doubts[0])}; `dvc repro -f -s {doubts[0]['stage']}` makes it anew.")
    md5s = {_path(project, item): item.hash_info.value for stage in project.stages for item in stage.outs}
    if out not in md5s:
        raise UserError(f"params.yaml has no run {run!r} any more; run `dvc repro` first, or name one that it has.")
    commits = [place["sha"] for place in answer["recorded_by"] if "sha" in place and not place["experiment"]]
    return Policy(run, sha256, str(folder), out, md5s[out], commits, answer, list(_bases(folder, md5s)))


def _bases(folder: Path, md5s: Mapping[str, str]) -> Iterator[Base]:
    """As of a Policy, of the model in `folder`; each is in one of the outputs `md5s`, by path."""
    while is_adapter(folder):
        config = read_json(folder / ADAPTER_CONFIG)
        folder = Path(config["base_model_name_or_path"])
        out = next(path for path in md5s if folder.is_relative_to(path))
        yield Base(config["revision"], str(folder), out, md5s[out])
