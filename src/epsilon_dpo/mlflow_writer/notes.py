"""The description of a run on MLflow's page: what it is, where its files are, how to make it again."""

from pathlib import Path

import yaml

from epsilon_dpo.pipeline.stage.params import in_yaml

DVC_FILE = Path("dvc.yaml")
EXTERNAL = ("answers", "export", "verdicts", "scoreboard")  # the stages of external/dvc.yaml, which run in external/


def note(name: str, params: dict[str, object]) -> str:
    """Markdown. `params`: the declared ones, by dotted key."""
    stage, _, run = name.partition("@")
    own = params.get(f"runs.{run}")
    is_external = stage in EXTERNAL
    folder = f"{'external/' if is_external else ''}out/{stage}/{run}".rstrip("/")
    lines = [f"**{name}**: {_described(stage)}", ""]
    if isinstance(own, dict):
        lines += ["The run: " + ", ".join(f"{key} {in_yaml(value)}" for key, value in own.items()), ""]
    lines.append(f"Files: `{folder}`, kept by DVC; `epsilon-dpo whence {folder}` says of what they were made.")
    if stage == "align":
        lines.append(
            f"Weights: `{folder}/model`, whose sha256 is the tag `policy_sha256`. At another commit: "
            f"`dvc get . {folder}/model --rev COMMIT`, where dvc.lock was committed."
        )
    place, of_dvc = (" in external/", f"external/dvc.yaml:{name}") if is_external else ("", name)
    lines.append(f"Made by `{command(name)}`{place}; by DVC: `dvc repro {of_dvc}`.")
    return "\n".join(lines)


def command(name: str) -> str:
    """Which makes the result of the stage `name`."""
    stage, _, run = name.partition("@")
    return f"{f'python {stage}.py' if stage in EXTERNAL else f'python -m stages.{stage}'} {run}".rstrip()


def _described(stage: str) -> str:
    """What dvc.yaml says of it; it may be broken by now, or the stage another project's."""
    try:
        stages = yaml.load(DVC_FILE.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["stages"]
        return str(stages[stage].get("do", stages[stage])["desc"])  # `do`: of a stage that is run for each run
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return "a stage of the pipeline"
