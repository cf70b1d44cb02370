"""What a result was computed with: packages, processor, GPU. MLflow has it of a recorded result, by its fingerprint."""

import re
from contextlib import chdir
from pathlib import Path

from epsilon_dpo.mlflow_writer.environment import LIBRARIES, ROUNDING, environment
from epsilon_dpo.pipeline.stage.fingerprint import declared_params, dependencies, fingerprint, stage_entry
from epsilon_dpo.pipeline.stage.variables import PROCESSOR

WITHOUT_EFFECT = ("dvc", "mlflow")  # on what a stage computes
PACKAGES = ("python", *(name for name in LIBRARIES if name not in WITHOUT_EFFECT))
NAMES = (*PACKAGES, "machine", *ROUNDING, "gpu")
FEATURES, VARIABLES = "processor.features", "processor.variables"
NONE = "none"
Variables = dict[str, str | None]  # of the environment, to set or (None) to take away
# A processor that has narrower vectors, by the switches of torch, MKL and oneDNN.
AS_ANOTHER: dict[str, Variables] = {
    "one without AVX-512": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
    "one without AVX2": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
}


def ours(root: Path) -> dict[str, str]:
    """What this process and the stages that it runs compute with; nothing that names the machine or a folder."""
    found = environment(root)
    return {name: found[name] for name in NAMES if found.get(name)}


def recorded(root: Path, clean: Path, name: str) -> dict[str, str] | None:
    """What the recorded result of stage `name` was computed with, as MLflow has it; None if it has nothing of it.

    Args:
        root: of the project, whose store is read.
        clean: a folder that holds exactly the recorded dependencies, by whose digests the run is known.
    """
    stage, _, run = name.partition("@")
    try:
        with chdir(clean):
            entry = stage_entry(stage, run or None)
            params, made_from = declared_params(entry), fingerprint(entry, dependencies(entry))
        from epsilon_dpo.mlflow_writer.reading import recorded_run  # imports mlflow: only where a result differs

        found = recorded_run(root, name, params, fingerprint=made_from)
    except Exception:  # a stage of somebody's own; whatever a store and its server raise: the verdict goes without
        return None
    if found is None or found["known_by"] != "fingerprint":
        return None
    return {name: found["environment"][name] for name in NAMES if name in found["environment"]}


def settings_to_try(before: dict[str, str] | None, now: dict[str, str]) -> dict[str, Variables]:
    """Variables under which the recorded result may come out, by what they amount to, the likeliest first."""
    found: dict[str, Variables] = {}
    none: Variables = dict.fromkeys(PROCESSOR)
    was = (before or {}).get(VARIABLES)
    if was is not None and was != now[VARIABLES]:
        # A value may have spaces, as a list of numpy's features has.
        pairs = dict(pair.split("=", 1) for pair in re.split(r"\s(?=[A-Z_]+=)", was)) if was != NONE else {}
        what = f"with {was}, as it was recorded" if pairs else f"without {now[VARIABLES]}, as it was recorded"
        return {what: {**none, **pairs}}
    if was is None and now[VARIABLES] != NONE:
        found[f"without {now[VARIABLES]}"] = none
    if "avx2" in now[FEATURES].split() and (before is None or before.get(FEATURES) != now[FEATURES]):
        for processor, variables in AS_ANOTHER.items():
            if _lacks(processor, before):
                found[f"as {processor} computes"] = none | variables
    return found


def _lacks(processor: str, before: dict[str, str] | None) -> bool:
    """Whether the processor of `before` may have been such a one."""
    known = (before or {}).get(FEATURES, "unknown")
    if known == "unknown":
        return True
    has = known.split()
    return "avx512f" not in has if processor.endswith("AVX-512") else "avx2" not in has
