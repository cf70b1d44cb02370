"""Workers of DVC's queue share one environment, so each stage takes GPUs that no other has."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from epsilon_dpo.pipeline.launch.launcher import Launcher, launcher
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage import execution, gpus, variables
from epsilon_dpo.pipeline.stage.runtime import set_up

STAGE = """
import os, sys
from epsilon_dpo.pipeline.stage.gpus import take_free_gpus
from epsilon_dpo.pipeline.stage.runtime import set_up

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
@pytest.mark.campaign
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


HOLDING = """
import sys
from epsilon_dpo.pipeline.stage.workplace import hold_some

hold_some(["gpu-3"], 1)
print("holds", flush=True)
sys.stdin.readline()
"""


def test_who_waits_for_a_gpu_says_for_whose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("DVC_EXP_NAME", "b")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv(gpus.TAKEN, "1")  # removed in the end
    monkeypatch.delenv(gpus.TAKEN)
    holder = subprocess.Popen([sys.executable, "-c", HOLDING], stdin=-1, stdout=-1, text=True)
    assert taken(holder) == "holds"
    rounds = iter([lambda: None, holder.communicate])
    monkeypatch.setattr("time.sleep", lambda _: next(rounds)())
    gpus.take_free_gpus(1)
    assert capsys.readouterr().err == f"waits for 1 of 1 GPUs; held: gpu-3 by pid {holder.pid}\n"


def test_who_waits_for_two_gpus_keeps_neither_from_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stages that each held one of two would wait for each other for ever."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("DVC_EXP_NAME", "b")
    monkeypatch.setenv(gpus.VISIBLE, "3,5")
    monkeypatch.setenv(gpus.TAKEN, "1")  # removed in the end
    monkeypatch.delenv(gpus.TAKEN)
    with subprocess.Popen([sys.executable, "-c", HOLDING], stdin=-1, stdout=-1, text=True) as holder:
        assert taken(holder) == "holds"

        def free_the_other() -> None:
            with (tmp_path / "scratch/locks/gpu-5.lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: it is held
            holder.communicate()

        rounds = iter([free_the_other])
        monkeypatch.setattr("time.sleep", lambda _: next(rounds)())
        gpus.take_free_gpus(2)
    assert os.environ[gpus.VISIBLE] == "3,5"


def test_a_part_of_a_gpu_is_taken_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which has slashes in it: GPU, GPU instance, compute instance."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("DVC_EXP_NAME", "a")
    monkeypatch.setenv(gpus.VISIBLE, "MIG-GPU-7/1/0,MIG-GPU-7/2/0")
    monkeypatch.setenv(gpus.TAKEN, "1")  # removed in the end
    monkeypatch.delenv(gpus.TAKEN)
    gpus.take_free_gpus(1)
    assert os.environ[gpus.VISIBLE] == "MIG-GPU-7/1/0"


@pytest.mark.parametrize("none", ["-1", "NoDevFiles"])
def test_stages_without_a_gpu_run_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, none: str) -> None:
    """All took the GPU called -1, one after the other."""
    monkeypatch.setattr(gpus, "hold_some", lambda names, count: pytest.fail(f"takes {count} of {names}"))
    monkeypatch.setenv("DVC_EXP_NAME", "a")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
    monkeypatch.delenv(gpus.TAKEN, raising=False)
    gpus.take_free_gpus(1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == none


@pytest.mark.parametrize(
    ("launcher", "experiment", "sees", "launched"),
    [("launchers/ddp.yaml", None, "3", "3,5"), (None, "a", "3", "3"), (None, None, "3,5", "3,5")],
)
def test_a_stage_sees_its_gpu_before_a_library_asks_cuda(
    launcher: str | None,
    experiment: str | None,
    sees: str,
    launched: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As bitsandbytes does on import: then all of them were counted, and the stage was refused."""
    monkeypatch.setattr(gpus, "has_gpu", lambda: True)
    monkeypatch.setattr(gpus, "find_spec", lambda name: name)
    monkeypatch.setattr(gpus, "_before", [])
    monkeypatch.setattr(execution, "start_early", lambda dvc: None)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv(gpus.VISIBLE, "3,5")
    monkeypatch.setenv(gpus.TAKEN, "1")  # removed in the end
    for name, value in ((gpus.TAKEN, None), (gpus.LAUNCHER, launcher), ("DVC_EXP_NAME", experiment)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    with execution.heavy_imports():
        assert os.environ[gpus.VISIBLE] == "3,5", "a stage that computes nothing leaves them to others"
    with execution.heavy_imports(computes=True):
        assert os.environ[gpus.VISIBLE] == sees
    assert gpus.environment_of_all_gpus()[gpus.VISIBLE] == launched


AS_THE_JUDGE = """
import os
from epsilon_dpo.pipeline.launch.processes import take_gpus_of_launcher
from epsilon_dpo.pipeline.stage.gpus import environment_of_all_gpus
from epsilon_dpo.pipeline.stage.runtime import set_up

take_gpus_of_launcher()
set_up(0, 1)
print(os.environ["CUDA_VISIBLE_DEVICES"], environment_of_all_gpus()["CUDA_VISIBLE_DEVICES"])
"""


@pytest.mark.slow
def test_a_stage_that_computes_before_it_launches_keeps_gpus_for_the_launched(
    tmp_path: Path, two_processes: Callable[[str], None]
) -> None:
    """It had taken one for good, so that an experiment with a reward model was refused."""
    two_processes("ddp")
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "3,5,7", "DVC_ROOT": str(tmp_path), "DVC_EXP_NAME": "a"}
    done = subprocess.run([sys.executable, "-c", AS_THE_JUDGE], env=env, text=True, capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "3,5"]


@pytest.mark.parametrize(
    ("gpus", "processes", "sentence"),
    [
        (8, 1, r"sees 8 GPUs and is one process: EPSILON_DPO_LAUNCHER=launchers/ddp.yaml, with as many num_"),
        (8, 4, r"has 4 processes here and they see 8 GPUs; raise its num_processes, or let \S+ name 4\."),
        (1, 4, r"has 4 processes here and they see 1 GPUs; lower its num_processes"),
    ],
)
def test_as_many_gpus_as_processes(monkeypatch: pytest.MonkeyPatch, gpus: int, processes: int, sentence: str) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    with pytest.raises(UserError, match=sentence):
        set_up(0, 1)


def test_the_page_says_how_a_stage_is_shown_one_of_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError) as refused:
        set_up(0, 1)
    page = (Path(__file__).parents[3] / "docs/howto.md").read_text("utf-8").split("\n## GPUs\n")[1].split("\n## ")[0]
    assert "CUDA_VISIBLE_DEVICES" in str(refused.value) and "`CUDA_VISIBLE_DEVICES=0 dvc repro`" in page


@pytest.mark.parametrize("processes", [1, 4])
def test_gpus_that_this_torch_cannot_use_are_not_passed_over(monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    """As under a driver that is too old, which counts them; the processor computed for hours, after one warning."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: processes)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    with pytest.raises(UserError, match=rf"^{processes} GPUs are here, and this torch .* needs a newer driver"):
        set_up(0, 1)


class Taken(Exception):
    """The GPU is, and what set_up would go on to set is left as it is in this process."""


@pytest.mark.parametrize(
    ("name", "capability", "ends", "sentence"),
    [
        ("GTX 1060", (6, 1), UserError, r"GTX 1060 is a GPU of compute capability 6\.1, .* from 7\.5 on; CUDA_VISIBLE"),
        ("TITAN V", (7, 0), UserError, r"TITAN V is a GPU of compute capability 7\.0, .* from 7\.5 on"),
        ("T4", (7, 5), Taken, "^$"),
        ("A100", (8, 0), Taken, "^$"),
        ("B200", (10, 0), Taken, "^$"),
    ],
)
def test_a_gpu_that_is_too_old_for_this_torch_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int], ends: type[Exception], sentence: str
) -> None:
    """Its driver answers, and the first kernel would end in a traceback; the oldest that torch supports is none."""
    found = {"is_available": True, "device_count": 1, "get_device_capability": capability, "get_device_name": name}
    found |= {"get_arch_list": ["sm_75", "sm_80", "compute_120"]}
    for function, value in found.items():
        monkeypatch.setattr(torch.cuda, function, lambda value=value: value)

    def go_on(threads: int) -> None:
        raise Taken

    monkeypatch.setattr(torch, "set_num_threads", go_on)
    with pytest.raises(ends, match=sentence):
        set_up(0, 1)


def test_each_machine_of_a_launcher_starts_its_share_of_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the launcher of two machines with four processes each, which meet at one port."""
    file = Path(__file__).parents[3] / "launchers/multi-node.yaml"
    monkeypatch.setenv(gpus.LAUNCHER, str(file))
    assert launcher() == Launcher(file, processes=8, here=4, sharded=True, port=29500)


@pytest.mark.parametrize(
    ("line", "instead", "sentence"),
    [
        (
            "num_machines: 1",
            "gradient_accumulation_steps: 2",
            "gradient_accumulation_steps is 2, which no launcher may",
        ),
        ("num_machines: 1", "downcast_bf16: true", "downcast_bf16 is True, which no launcher may decide"),
        ("num_machines: 1", "dynamo_config: {dynamo_backend: INDUCTOR}", "dynamo_config is {'dynamo_backend': 'INDUCT"),
        (
            "distributed_type: MULTI_GPU",
            "distributed_type: 'NO'",
            "num_processes is 4 on num_machines 1 with distributed",
        ),
        ("num_processes: 4", "num_processes: true", "num_processes is True on num_machines 1"),
    ],
)
def test_what_a_launcher_may_not_decide_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, instead: str, sentence: str
) -> None:
    """accelerate would do it in silence: two steps in one, fewer bits, other kernels, trainings that share nothing."""
    text = (Path(__file__).parents[3] / "launchers/ddp.yaml").read_text("utf-8")
    assert line in text
    (tmp_path / "own.yaml").write_text(text.replace(line, instead), "utf-8")
    monkeypatch.setenv(gpus.LAUNCHER, str(tmp_path / "own.yaml"))
    with pytest.raises(UserError) as refused:
        launcher()
    assert f"own.yaml: {sentence}" in str(refused.value)


@pytest.mark.parametrize(
    ("build", "device", "usable"),
    [("2.13.0", "nvidia0", True), ("2.13.0", "dxg", True), ("2.13.0", "kfd", False), ("2.13.0+cpu", "nvidia0", False),
     ("2.13.0+rocm7.0", "kfd", True), ("2.13.0+cu130", "nvidiactl", False)],
)  # fmt: skip
def test_a_gpu_is_one_that_the_installed_torch_can_use(
    build: str, device: str, usable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / device).touch()
    monkeypatch.setattr(variables, "DEVICES", tmp_path)
    monkeypatch.setattr(variables, "version", lambda name: build)
    assert variables.has_gpu() == usable
