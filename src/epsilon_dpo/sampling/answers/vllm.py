"""Sampling with vLLM, in an environment of its own, because it pins another torch.

Its process gets everything in request.json and leaves completions as JSON lines; nothing else passes between them. From
the same seeds vLLM draws other values than sampling.py.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_jsonl
from epsilon_dpo.pipeline.stage.gpus import take_free_gpus
from epsilon_dpo.sampling.answers.params import GREEDY, Sampler
from epsilon_dpo.sampling.decoding.stops import Stops

ENVIRONMENT = Path(".venv-vllm")
REQUEST, COMPLETIONS = "request.json", "completions.jsonl"


def python_of_vllm() -> Path:
    """The interpreter of vLLM's environment.

    Raises:
        UserError: there is no such environment.
    """
    python = _environment() / "bin" / "python"
    if not python.exists():
        raise UserError(
            f"backend: vllm needs vLLM in an environment of its own, {ENVIRONMENT}, because it pins another torch; "
            "make it with `make vllm`, or set backend: transformers."
        )
    return python


def sample_with_vllm(
    python: Path, folder: Path, prompts: dict[str, list[int]], seeds: dict[str, int], params: Sampler, stops: Stops
) -> dict[str, list[int]]:
    """Completion ids by row id, in the order of `prompts`, up to the token that ends each.

    Args:
        python: as of python_of_vllm, which is asked before a model is merged.
        folder: model and tokenizer, merged.
        prompts: token ids by row id.

    Raises:
        UserError: vLLM's process failed (its own messages went to stderr).
    """
    request: dict[str, Any] = {"stage": os.getpid(), "model": str(folder.absolute())}
    request |= {"prompts": prompts, "seeds": seeds, "stop_token_ids": stops.tokens}
    request |= params.model_dump(include=set(Sampler.model_fields))
    if params.temperature == GREEDY:
        request["temperature"] = 0.0  # greedy; vLLM raises any other below 0.01 to 0.01
    # -P: names of this folder hide no module.
    command = [str(python), "-P", str(Path(__file__).with_name("vllm_worker.py"))]
    take_free_gpus(1)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / REQUEST).write_text(json.dumps(request), "utf-8")  # no indentation: it may hold 10^8 token ids
        done = subprocess.run([*command, str(work)], stdout=sys.stderr, check=False)
        written = not done.returncode and (work / COMPLETIONS).exists()  # else its last line may be a part of one
        rows = read_jsonl(work / COMPLETIONS) if written else []
    found = {row["id"]: row["ids"] for row in rows}
    if done.returncode or len(rows) != len(prompts) or found.keys() != prompts.keys():
        raise UserError(
            f"sampling with vLLM ended with exit status {done.returncode} and {len(rows)} of {len(prompts)} answers; "
            "see its output above."
        )
    return {id_: found[id_] for id_ in prompts}


def _environment() -> Path:
    """The project's, or the one beside the environment that runs this: a copy of a project has none of its own."""
    beside = Path(sys.prefix).with_name(ENVIRONMENT.name)
    return beside if beside.is_dir() and not ENVIRONMENT.is_dir() else ENVIRONMENT
