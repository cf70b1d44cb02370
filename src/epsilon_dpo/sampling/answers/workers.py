"""Sampling in separate worker processes: several under torchrun that share the prompts, or one in vLLM's environment.

A worker gets everything in request.json and leaves completions as JSON lines; nothing else passes between them. A
prompt's random numbers are its own, so in how many processes they are drawn changes an answer by rounding only. vLLM
draws other values from the same seeds.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_jsonl, write_json
from epsilon_dpo.sampling.answers.params import Sampler
from epsilon_dpo.sampling.answers.stops import Stops

VLLM_ENVIRONMENT = Path(".venv-vllm")
WORKERS = {"transformers": "worker.py", "vllm": "vllm_worker.py"}
REQUEST, COMPLETIONS, REFUSED = "request.json", "completions*.jsonl", "refused.txt"


def sample_in_workers(
    folder: Path,
    prompts: dict[str, list[int]],
    seeds: dict[str, int],
    params: Sampler,
    threads: int,
    stops: Stops,
    scratch: Path | None = None,
    state: str = "sampling",
) -> dict[str, list[int]]:
    """Completion ids by row id, in the order of `prompts`, up to the token that ends each.

    Args:
        folder: model and tokenizer.
        prompts: token ids by row id.
        scratch: where each worker keeps its state, under `state` and its number; None: nowhere.

    Raises:
        UserError: vLLM's environment does not exist, or a worker refused or failed (its own messages went to stderr).
    """
    request: dict[str, Any] = {"model": str(folder.absolute()), "prompts": prompts, "seeds": seeds}
    request |= {
        "threads": threads,
        "scratch": None if scratch is None else str(scratch.absolute()),
        "state": state,
        "stop_token_ids": stops.tokens,
        **params.model_dump(include=set(Sampler.model_fields)),
    }
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_json(work / REQUEST, request)
        done = subprocess.run([*_command(params), str(work)], stdout=sys.stderr, check=False)
        if (work / REFUSED).exists():
            raise UserError((work / REFUSED).read_text("utf-8"))
        rows = [row for file in sorted(work.glob(COMPLETIONS)) for row in read_jsonl(file)]
    found = {row["id"]: row["ids"] for row in rows}
    if done.returncode or len(rows) != len(prompts) or found.keys() != prompts.keys():
        raise UserError(
            f"sampling in {params.processes} worker processes (backend {params.backend}) ended with exit status "
            f"{done.returncode} and {len(rows)} of {len(prompts)} answers; see its output above."
        )
    return {id_: found[id_] for id_ in prompts}


def _command(params: Sampler) -> list[str]:
    script = ["-P", str(Path(__file__).with_name(WORKERS[params.backend]))]  # -P: names of this folder hide no module
    if params.backend == "transformers":
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={params.processes}", "--no-python"]
        return [sys.executable, "-m", *launcher, sys.executable, *script]
    python = VLLM_ENVIRONMENT / "bin" / "python"
    if not python.exists():
        raise UserError(
            f"backend: vllm needs vLLM in an environment of its own, {VLLM_ENVIRONMENT}, because it pins another "
            "torch; make it with `make vllm`, or set backend: transformers."
        )
    return [str(python), *script]
