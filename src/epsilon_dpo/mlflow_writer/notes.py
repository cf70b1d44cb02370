"""The description of a run on MLflow's page: what it is, where its files are, how to make it again."""

from pathlib import Path

import yaml

DVC_FILE = Path("dvc.yaml")


def note(name: str, params: dict[str, object]) -> str:
    """Markdown. `params`: the declared ones, by dotted key."""
    stage, _, run = name.partition("@")
    own = params.get(f"runs.{run}")
    folder = f"out/{stage}/{run}".rstrip("/")
    lines = [f"**{name}**: {_described(stage)}", ""]
    if isinstance(own, dict):
        lines += ["The run: " + ", ".join(f"{key} {value}" for key, value in own.items()), ""]
    lines.append(f"Files: `{folder}`, kept by DVC; `epsilon-dpo whence {folder}` says of what they were made.")
    if stage == "align":
        lines.append(
            f"Weights: `{folder}/model`, whose sha256 is the tag `policy_sha256`. At another commit: "
            f"`dvc get . {folder}/model --rev COMMIT`, where dvc.lock was committed."
        )
    lines.append(f"Made by `python -m stages.{' '.join(filter(None, (stage, run)))}`; by DVC: `dvc repro {name}`.")
    return "\n".join(lines)


def _described(stage: str) -> str:
    """What dvc.yaml says of it; it may be broken by now, or the stage another project's."""
    try:
        stages = yaml.load(DVC_FILE.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["stages"]
        return str(stages[stage].get("do", stages[stage])["desc"])  # `do`: of a stage that is run for each run
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return "a stage of the pipeline"
