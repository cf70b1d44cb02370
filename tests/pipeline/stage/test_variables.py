"""No variable of the environment changes a result in silence."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from epsilon_dpo.pipeline.stage import variables
from epsilon_dpo.pipeline.stage.execution import heavy_imports
from epsilon_dpo.pipeline.stage.variables import (
    DECIDED,
    ENGINES,
    HARMLESS,
    PROCESSOR,
    let_params_decide,
    under_this_processor,
)

ROOT = Path(__file__).resolve().parents[3]
CHANGING = {
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_GRADIENT_CLIPPING": "0.1",
    "ACCELERATE_USE_CPU": "true",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
    "NVIDIA_TF32_OVERRIDE": "1",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "XLA_USE_BF16": "1",
}
# Read by accelerate and without influence on a result of a stage, which is one process: where processes meet, what is
# printed, clouds, tests, and accelerate's own bookkeeping of modules.
NO_RESULT = re.compile(
    r"LOCAL_RANK|RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|NPROC|NODE_RANK|MASTER_(ADDR|PORT)|FORK_LAUNCHED|AWS_.*|MLFLOW_.*|"
    r"CLEARML_.*|TPU_NAME|PJRT_DEVICE|USE_TORCH_XLA|PT_HPU_LAZY_MODE|DEEPSPEED_USE_HPU|RUN_SLOW|PYTEST_.*|FOO|systemdrive|"
    r"XDG_CACHE_HOME|HF_HOME|TRANSFORMERS_NO_ADVISORY_WARNINGS|PYTORCH_ENABLE_MPS_FALLBACK|"
    r"(OMP|MKL|PMI|KMP|CCL|NCCL|CUDA|HIP|ZE|MUSA|NPU|MLU)_.*|PYTORCH_NVML_BASED_CUDA_CHECK"
)


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variables, "_said", set())
    for name in (*CHANGING, *PROCESSOR):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", CHANGING)
def test_what_changes_a_result_is_removed_and_named(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, CHANGING[name])
    let_params_decide()
    line = f"environment: not used, because params.yaml alone decides: {name}={CHANGING[name]}\n"
    assert name not in os.environ and capsys.readouterr().err == line
    let_params_decide()
    assert capsys.readouterr().err == ""


def test_what_is_the_users_stays(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = ("HF_HOME", "CUDA_VISIBLE_DEVICES", "ACCELERATE_LOG_LEVEL", "ACCELERATE_USE_DEEPSPEED", "VLLM_API_KEY")
    for name in theirs:
        monkeypatch.setenv(name, "x")
    let_params_decide()
    assert set(theirs) <= set(os.environ) and capsys.readouterr().err == ""


def test_a_secret_that_is_removed_is_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLM_OTHER_TOKEN", "sk-0123456789")
    let_params_decide()
    assert "VLLM_OTHER_TOKEN" not in os.environ and "VLLM_OTHER_TOKEN=***" in capsys.readouterr().err


def test_another_processor_is_named_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    let_params_decide()
    let_params_decide()
    said = "environment: this makes sums round as on another processor: ATEN_CPU_CAPABILITY=default\n"
    assert capsys.readouterr().err == said and os.environ["ATEN_CPU_CAPABILITY"] == "default"


def test_accelerate_reads_nothing_that_is_not_considered() -> None:
    """A new version may read more; the names are those of its own source, so that none is forgotten here."""
    spec = find_spec("accelerate")
    assert spec is not None and spec.submodule_search_locations is not None
    [folder] = spec.submodule_search_locations
    read = re.compile(
        r"(?:environ(?:\.get|\.pop)?[\[(]|getenv\(|(?:parse_flag|parse_choice|get_int)_from_env\(\[?)\s*[\"\']([A-Za-z_0-9]+)[\"\']"
    )
    files = [path for path in Path(folder).rglob("*.py") if not {"test_utils", "commands"} & set(path.parts)]
    found = {name for path in files for name in read.findall(path.read_text("utf-8"))}
    assert "ACCELERATE_MIXED_PRECISION" in found and len(found) > 30
    known = (*ENGINES, *HARMLESS)
    assert {
        name for name in found if not name.startswith(DECIDED) and name not in known and not NO_RESULT.fullmatch(name)
    } == set()


def test_libraries_are_imported_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("epsilon_dpo.pipeline.stage.execution.start_early", lambda leader: None)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with heavy_imports():
        assert "ACCELERATE_MIXED_PRECISION" not in os.environ


STAGES = sorted(
    str(path.relative_to(ROOT)) for folder in ("stages", "external") for path in ROOT.glob(f"{folder}/[a-z]*.py")
)


FIRST_WITH_TORCH = """
import json, sys

for stage, code in json.loads(sys.argv[1]).items():
    exec(compile(code, stage, "exec"), {"__name__": "__main__"})
    if found := {"torch", "transformers", "accelerate"} & set(sys.modules):
        sys.exit(f"{stage} has imported {sorted(found)}")
"""


def test_no_stage_imports_torch_before_it() -> None:
    """Else a variable that is read at the import has done its work.

    One process begins as each stage does, in turn: what it has not imported in the end, no stage has.
    """
    assert len(STAGES) > 20
    sources = {stage: (ROOT / stage).read_text("utf-8") for stage in STAGES}
    before = {
        stage: source.split("with heavy_imports(")[0].split("with run_stage(")[0].replace("run = run_argument()", "")
        for stage, source in sources.items()
    }
    command = [sys.executable, "-c", FIRST_WITH_TORCH, json.dumps(before)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_another_arithmetic_resumes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROCESSOR:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert under_this_processor("f" * 64) == "f" * 64
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    narrow = under_this_processor("f" * 64)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert len({"f" * 64, narrow, under_this_processor("f" * 64)}) == 3


@pytest.mark.parametrize(("build", "device"), [("2.13.0", "nvidia0"), ("2.13.0+rocm7.0", "kfd"), ("2.13.0", "dxg")])
@pytest.mark.parametrize("visible", [None, "0,1", "MIG-7", "", "-1", "-1,0", "NoDevFiles"])
def test_a_gpu_resumes_nothing_of_the_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: str, device: str, visible: str | None
) -> None:
    monkeypatch.setattr(variables, "DEVICES", tmp_path)
    monkeypatch.setattr(variables, "version", lambda name: build)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert under_this_processor("f" * 64) == "f" * 64
    (tmp_path / device).touch()
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    has_one = visible in (None, "0,1", "MIG-7")
    assert (under_this_processor("f" * 64) != "f" * 64) is has_one


def test_numpy_and_scipy_add_up_in_one_thread(tmp_path: Path) -> None:
    """Loaded before a stage begins, or after; torch's threads stay those of params.yaml."""
    code = """
import numpy
from epsilon_dpo.pipeline.stage.variables import add_up_in_one_thread
add_up_in_one_thread()
import scipy.linalg
import torch
from threadpoolctl import threadpool_info
torch.set_num_threads(2)
found = [one for one in threadpool_info() if "numpy.libs" in one["filepath"] or "scipy.libs" in one["filepath"]]
assert len(found) == 2 and all(one["num_threads"] == 1 for one in found), found
assert torch.get_num_threads() == 2
"""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
