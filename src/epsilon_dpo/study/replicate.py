"""The replicates of a level: `dvc repro` with one seed after the other, whose results are kept before the next."""

import os
import subprocess
import sys
from pathlib import Path

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import atomic_file
from epsilon_dpo.pipeline.stage.params import PARAMS_FILE, read_yaml
from epsilon_dpo.pipeline.stage.workplace import workplace
from epsilon_dpo.study.claims import level_of, preset_of, read_study
from epsilon_dpo.study.collect import (
    MEASURED,
    SEED,
    collect,
    different_block,
    known_replicates,
    made_from,
    read_results,
    refuse_other_settings,
    results_folder,
)
from epsilon_dpo.study.summary import shown, summarise


def run_level(name: str) -> str:
    """Run every replicate of a level that has no results yet; one that was killed goes on where it stood.

    Of params.yaml the seed alone is changed: paths of one's own stay. Tournament, figures and report of the last
    replicate are a plain `dvc repro` away; with 40 runs they take minutes, and nothing is collected from them.

    Returns:
        one sentence: how many replicates there are, and where MLflow shows them.

    Raises:
        UserError: the level is not known or has no preset, params.yaml is not its preset's or differs from that of the
            replicates that are there, a stage failed, or another process runs a level here.
    """
    with workplace("study"):  # of two at once, each would change the seed under the stages of the other
        return _run(name)


def _run(name: str) -> str:
    level = level_of(name)
    preset, folder = preset_of(name, level), results_folder(name)
    refuse_other_params(preset)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # of a .venv not activated
    known = known_replicates(name)
    made = made_from(Path(), read_yaml(PARAMS_FILE)) | {"model": None}  # what lies here may be of other params
    refuse_other_settings(made, None, known, Path(), folder)
    done = {int(row["seed"]) for row in read_results(name)} & set(map(int, known))
    for seed in level.seeds:
        if seed in done:
            continue
        params = SEED.sub(f"seed: {seed}", PARAMS_FILE.read_text("utf-8"), count=1)
        with atomic_file(PARAMS_FILE) as partial:
            partial.write_text(params, "utf-8")
        reproduced = subprocess.run(["dvc", "repro", *MEASURED], check=False, env=os.environ | {"PATH": path})
        if code := reproduced.returncode:
            raise UserError(f"the replicate of seed {seed} stopped (`dvc repro` ended with {code}); run this again.")
        collect(name, Path())
    seen = shown(summarise(name, read_results(name), read_study().confidence))
    return f"level {name} has its {len(level.seeds)} replicates: {folder}{seen}"


def refuse_other_params(preset: Path) -> None:
    """
    Raises:
        UserError: a block of params.yaml is not that of `preset`, or it has no seed of its own line.
    """
    there = PARAMS_FILE.is_file()
    other = different_block(read_yaml(PARAMS_FILE), read_yaml(preset)) if there else "all"
    text = PARAMS_FILE.read_text("utf-8") if there else ""
    if other is not None or not SEED.search(text):
        raise UserError(
            f"{PARAMS_FILE} is not made from {preset} ({other or 'seed'} differs): cp {preset} {PARAMS_FILE}, and set "
            "the paths in it."
        )
