"""Each policy as a LoggedModel of MLflow: what it was made of and how it fared; its weights stay with DVC.

A model is found by its run and the sha256 of its policy, and made only where there is none: a result that DVC restores
is the same policy. What its page shows comes from the row of the training, and from the rows of the stages that read
the policy, which name it as their input and give their metrics its id.
"""

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelInput, LoggedModelOutput, LoggedModelStatus, Metric, Run

from epsilon_dpo.pipeline.stage.runs import FINAL

POLICY = "policy_sha256"  # tag of a row and of a model; on the row of a training also POLICY/<place> of each snapshot
DATA = ("out/validate", "out/pairs")  # what policies are measured on: the first of these that a stage reads
KEPT = {name: name for name in ("stage", "method", "fingerprint", "rebuilt")} | {  # tags of the training's row
    "mlflow.source.git.commit": "git_commit"
}


class Models:
    """The policies of one experiment."""

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self.client = client
        self.experiment = experiment

    def find(self, run: str, sha256: str) -> str | None:
        """The id of the model of this policy of `run`."""
        found = self._found(run, sha256)
        return str(found.model_id) if found else None

    def _found(self, run: str, sha256: str) -> LoggedModel | None:
        asked = f"tags.{POLICY} = '{sha256}' and tags.run = '{run}'"
        found = self.client.search_logged_models([self.experiment], asked, max_results=1)
        return found[0] if found else None

    def ensure(
        self, row: str, run: str, sha256: str, place: str = FINAL, steps: float | None = None
    ) -> tuple[str, bool]:
        """The id of the model of this policy, which the training of the MLflow run `row` made, and whether it is new.

        Args:
            place: of the policy below out/align/RUN, as of runs.policy_paths.
            steps: of the training; None: its row says them.
        """
        known = self._found(run, sha256)
        if known and known.status == LoggedModelStatus.READY:
            return str(known.model_id), False
        training = self.client.get_run(row)
        path = "/".join(part for part in ("out/align", run, place, "model") if part != FINAL)
        step = 0 if place == FINAL else int(place.rpartition("/")[2])
        tags: dict[str, str] = training.data.tags
        kept = {ours: tags[name] for name, ours in KEPT.items() if name in tags}
        kept |= {"run": run, POLICY: sha256, "dvc_path": path, "mlflow.model.isExternal": "true"}
        # One that is not ready was begun when the store went away.
        model = known or self.client.create_logged_model(
            self.experiment,
            f"align@{run}" + (f"-{step}" if step else ""),
            row,
            kept | {"mlflow.note.content": _note(training, path, sha256, step)},
            training.data.params,
            "policy",
        )
        last = _last_step(training) if steps is None else int(steps)
        made = training.outputs.model_outputs if training.outputs else []
        if model.model_id not in {one.model_id for one in made}:  # MLflow's store takes no output a second time
            self.client.log_outputs(row, [LoggedModelOutput(model.model_id, step or last)])
        self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        return str(model.model_id), True

    def made(self, row: str, run: str, tags: dict[str, str]) -> None:
        """The models of the policies that `tags` of a training's row name, the final one and snapshots."""
        for name, sha256 in tags.items():
            tag, _, place = name.partition("/")
            if tag == POLICY:
                self.ensure(row, run, sha256, place or FINAL)

    def read(self, row: str, run: str, sha256: str) -> str | None:
        """Name the model of this policy as an input of the MLflow run `row`; its id, if the store has it."""
        model = self.find(run, sha256)
        if model:
            self.client.log_inputs(row, models=[LoggedModelInput(model)])
        return model


def of_model(metrics: list[Metric], model: str | None, data: tuple[str, str] | None) -> list[Metric]:
    """`metrics` as those of a model as well, on the dataset of this name and digest; as they are if there is none."""
    if model is None:
        return metrics
    name, digest = data or (None, None)
    return [Metric(one.key, one.value, one.timestamp, one.step, model, name, digest) for one in metrics]


def _last_step(training: Run) -> int:
    return int(training.data.metrics.get("steps", 0))


def _note(training: Run, path: str, sha256: str, step: int) -> str:
    """What the model's page says: where the weights are and what they were made of."""
    at = f" after {step} optimizer steps" if step else ""
    said = [
        f"The policy of run `{training.data.tags.get('run', '')}`{at}. DVC keeps its weights, `{path}`; their sha256 "
        f"is `{sha256}`. `epsilon-dpo whence` says of any copy of them where it comes from."
    ]
    inputs = training.inputs.dataset_inputs if training.inputs else []
    read = [f"- `{of.dataset.name}`, sha256 `{of.dataset.digest}…`" for of in inputs]
    return "\n".join([*said, *(["", "It was made of", *read] if read else [])])
