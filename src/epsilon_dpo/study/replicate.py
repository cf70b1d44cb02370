"""The replicates of a level: `dvc repro` with one seed after the other, whose results are kept before the next."""

import re
import subprocess
from pathlib import Path

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.study.claims import STUDY, Level, read_study
from epsilon_dpo.study.collect import collect, read_results

PARAMS = Path("params.yaml")
SEED = re.compile(r"(?m)^seed: (\d+)")


def run_level(name: str, study: Path = STUDY) -> str:
    """Run every replicate of a level that has no results yet; one that was killed goes on where it stood.

    Returns:
        one sentence: how many replicates there are.

    Raises:
        UserError: the level is not known or has no preset, params.yaml is another one, or a stage failed.
    """
    level = level_of(name, study)
    preset = preset_of(name, level)
    refuse_other_params(preset)
    done = {int(row["seed"]) for row in read_results(name, study)}
    for seed in level.seeds:
        if seed in done:
            continue
        PARAMS.write_text(with_seed(preset.read_text("utf-8"), seed), "utf-8")
        if code := subprocess.run(["dvc", "repro"], check=False).returncode:
            raise UserError(
                f"the replicate of seed {seed} stopped (`dvc repro` ended with {code}); run this again to go on."
            )
        collect(name, Path(), study)
    return f"level {name} has its {len(level.seeds)} replicates: {study / 'results' / name}"


def level_of(name: str, study: Path = STUDY) -> Level:
    levels = read_study(study).levels
    if name not in levels:
        raise UserError(f"no level is called {name}; there are {', '.join(levels)} (study/claims.yaml).")
    return levels[name]


def preset_of(name: str, level: Level) -> Path:
    if level.preset is None:
        raise UserError(f"level {name} cannot be run here: it needs {level.needs}.")
    return level.preset


def refuse_other_params(preset: Path) -> None:
    """
    Raises:
        UserError: params.yaml is not `preset` under some seed, so that it would be overwritten.
    """
    if not PARAMS.is_file() or SEED.sub("", PARAMS.read_text("utf-8")) != SEED.sub("", preset.read_text("utf-8")):
        raise UserError(
            f"params.yaml is not {preset} (apart from its seed), and is not overwritten: cp {preset} {PARAMS}."
        )


def with_seed(params: str, seed: int) -> str:
    return SEED.sub(f"seed: {seed}", params, count=1)
