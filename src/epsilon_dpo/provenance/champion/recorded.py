"""Whether what stands in out/ is what dvc.lock records, so that a comparison there is of the policies that it names."""

from dataclasses import dataclass
from pathlib import Path

from dvc.dependency import ParamsDependency
from dvc.output import Output
from dvc.stage import PipelineStage

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Json, read_json
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.provenance.champion.decision import SUMMARY
from epsilon_dpo.provenance.graph.project import Project, at_work, open_project
from epsilon_dpo.provenance.plan.outputs import Outputs
from epsilon_dpo.provenance.whence.origin import origin

REPORT = "report"


@dataclass(frozen=True)
class Policy:
    """The final policy of a run, as it stands in out/ and in dvc.lock.

    Attributes:
        path: of its model folder, from the project's root.
        out, md5: the output that the folder is in, and DVC's digest of that.
        commits: whose dvc.lock records it, newest first; those of experiments do not count.
        origin: all that is known of where it comes from, as whence's `origin`.
    """

    run: str
    sha256: str
    path: str
    out: str
    md5: str
    commits: list[str]
    origin: Json

    @property
    def commit(self) -> str | None:
        """The newest of them; None: the workspace's dvc.lock alone records it."""
        return self.commits[0] if self.commits else None


def comparison(project: Project) -> Json:
    """The content of the report's summary.json, after a look at all that it was made from.

    Code and params may have changed since: dvc.lock says what the results were made with.

    Raises:
        UserError: DVC writes outputs at this moment; an output or what a stage read is not as dvc.lock records it.
    """
    if busy := at_work(project.repo):
        raise UserError(f"another process writes the outputs of this project ({busy}); wait for it.")
    there = Outputs(project.repo)
    for stage in project.stages:
        for item in _recorded(project, stage):
            if not item.hash_info:
                raise UserError(
                    f"dvc.lock does not say what {_path(project, item)} of stage {stage.addressing} was: dvc.yaml has "
                    "changed since this result; run `dvc repro` first."
                )
            if there.now(item) != item.hash_info:
                what = "is not" if item.exists else "is absent, and not"
                raise UserError(
                    f"{_path(project, item)} {what} what dvc.lock records of stage {stage.addressing}, so that "
                    "out/report may speak of other policies; run `dvc repro` first."
                )
    summary: Json = read_json(Path(SUMMARY))
    return summary


def _recorded(project: Project, stage: PipelineStage) -> list[Output]:
    """Outputs of `stage`, and of what it read that which stages make, with the digests of dvc.lock.

    Raises:
        UserError: dvc.lock does not have the stage.
    """
    if project.locked(stage) is None:
        raise UserError(f"dvc.lock has no result of stage {stage.addressing}; run `dvc repro` first.")
    read = [dep for dep in stage.deps if not isinstance(dep, ParamsDependency)]
    return [*stage.outs, *(dep for dep in read if _path(project, dep).startswith("out/"))]


def _path(project: Project, item: Output) -> str:
    return str(Path(item.fs_path).relative_to(project.root))


def compared() -> tuple[Project, Json]:
    """The project in the working folder, and its `comparison`.

    Raises:
        UserError: this is no project, or as `comparison`.
    """
    project = open_project([REPORT])
    return project, comparison(project)


def policy_of(project: Project, summary: Json, run: str) -> Policy:
    """The policy of `run` that the report compares.

    Raises:
        UserError: the report compares no such run, or the model in out/ is not the policy that it speaks of, or not
            what `whence` knows it by.
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
    outs = {_path(project, item): item for stage in project.stages for item in stage.outs}
    if out not in outs:
        raise UserError(f"params.yaml has no run {run!r} any more; run `dvc repro` first, or name one that it has.")
    commits = [place["sha"] for place in answer["recorded_by"] if "sha" in place and not place["experiment"]]
    return Policy(run, sha256, str(folder), out, outs[out].hash_info.value, commits, answer)
