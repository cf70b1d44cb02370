"""vLLM's process beside the stage that started it; test_sampling.py has what is asked and how answers come back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
from processes_of_tests import until, until_gone

WORKER = Path(__file__).resolve().parents[3] / "src/epsilon_dpo/sampling/answers/vllm_worker.py"
# In vLLM's place: it says who it is, and takes longer than a test.
VLLM = """
import os, time
from pathlib import Path

SamplingParams = dict

def LLM(**given):
    Path("pid").write_text(str(os.getpid()))
    time.sleep(60)
"""
SETTINGS = {
    **{"temperature": 1.0, "max_new_tokens": 3, "batch_size": 1, "stop": {"strings": []}, "stop_token_ids": [2]},
    "logits": {"top_p": 1.0, "top_k": None, "min_p": None, "repetition_penalty": 1.0},
}


def test_it_ends_with_the_stage_that_asked_it(tmp_path: Path) -> None:
    """A killed stage takes nothing along, and a vLLM whose answers nobody reads would hold the GPU for hours."""
    (tmp_path / "config.json").write_text('{"dtype": "float32"}', "utf-8")
    (tmp_path / "vllm.py").write_text(VLLM, "utf-8")
    request = SETTINGS | {"model": str(tmp_path), "prompts": {"a": [1]}, "seeds": {"a": 5}, "stage": "STAGE"}
    (tmp_path / "request.json").write_text(json.dumps(request), "utf-8")
    stage = 'sed "s/\\"STAGE\\"/$$/" request.json > r && mv r request.json; "$0" -P "$1" . & wait'
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = ["sh", "-c", stage, sys.executable, str(WORKER)]
    with subprocess.Popen(command, env=environment, cwd=tmp_path) as shell:
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), within_s=60.0)
        pid = int((tmp_path / "pid").read_text())
        assert psutil.Process(pid).ppid() == shell.pid
        shell.kill()
    until_gone(pid, within_s=50.0)  # before it would by itself
