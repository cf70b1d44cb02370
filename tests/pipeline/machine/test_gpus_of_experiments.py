"""Workers of DVC's queue share one environment, so each stage takes GPUs that no other has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STAGE = """
import os, sys
from epsilon_dpo.pipeline.machine.runtime import set_up, take_free_gpus

take_free_gpus(int(sys.argv[1]))
set_up(0, 1)
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.readline()
"""


def start(folder: Path, visible: str, processes: int = 1, **environment: str) -> "subprocess.Popen[str]":
    env = os.environ | {"CUDA_VISIBLE_DEVICES": visible, "DVC_ROOT": str(folder)} | environment
    return subprocess.Popen(
        [sys.executable, "-c", STAGE, str(processes)], env=env, stdin=-1, stdout=-1, text=True, cwd=folder
    )


def taken(stage: "subprocess.Popen[str]") -> str:
    assert stage.stdout is not None
    return stage.stdout.readline().strip()


@pytest.mark.slow
def test_each_stage_of_an_experiment_has_gpus_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    two = [start(tmp_path, "3,GPU-7", DVC_EXP_NAME=name) for name in ("a", "b")]
    first = [taken(stage) for stage in two]
    assert set(first) == {"3", "GPU-7"}
    third = start(tmp_path, "3,GPU-7", DVC_EXP_NAME="c")
    with pytest.raises(subprocess.TimeoutExpired):
        third.wait(8)  # it takes some of them to import torch; then it waits
    two[0].kill()  # however a process ends, its GPU is free
    assert taken(third) == first[0]
    alone = start(tmp_path, "3,GPU-7")
    assert taken(alone) == "3,GPU-7", "`dvc repro` keeps what the user named"
    as_many = start(tmp_path, "5", DVC_EXP_NAME="e")
    assert taken(as_many) == "5"
    second = start(tmp_path, "5", DVC_EXP_NAME="f")
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(8)
    its_worker = start(tmp_path, "5", DVC_EXP_NAME="e", EPSILON_DPO_GPUS_TAKEN="1")
    assert taken(its_worker) == "5"
    several = start(tmp_path, "0,1,2", 2, DVC_EXP_NAME="d")
    assert taken(several) == "0,1"
    for stage in (*two, third, alone, as_many, second, its_worker, several):
        stage.kill()
        stage.wait()
