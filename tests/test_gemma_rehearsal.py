"""presets/hh-gemma-2-2b.yaml on a model of gemma-2-2b's shape: random weights, the real tokenizer, a LoRA, bfloat16.

The preset's path through every stage up to kl and score, two optimizer steps each, on real dialogues. Prints the peak
memory of each stage beside `epsilon-dpo forecast`: `make campaign` shows it. Needs 24 GB of memory, 20 GB of disk.
"""

import json
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from model_families import REAL
from test_real_dialogues import real_hh_folder
from transformers import AutoModelForCausalLM, Gemma2Config
from whole_pipeline import BIN, copy_project, dvc, environment, link_files, metrics_of, with_preset

from epsilon_dpo.pipeline.stage.files import read_jsonl
from epsilon_dpo.pipeline.stage.params import read_yaml

pytestmark = [pytest.mark.slow, pytest.mark.campaign]  # twenty minutes, and up to 24 GB

TOKENIZER = REAL / "gemma-2-tokenizer"
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear", "quantise": None}
BEFORE = {  # what a stage needs beside the stages before it
    "sft": ["validate", "base", "judge"],
    "align@dpo_b01": ["pairs", "margins", "scorer"],
    "align@epsilon_dpo_b01": ["pairs"],
    "sample@epsilon_dpo_b01": ["reference"],
    "kl@epsilon_dpo_b01": ["reference"],
}


def changes(project: Path) -> dict[str, Any]:
    """What the preset needs where there are two cores, one subset of its data and no Hub."""
    preset = read_yaml(project / "presets/hh-gemma-2-2b.yaml")
    local = read_yaml(project / "presets/hh-local.yaml")  # the same dialogues, and a judge that is trained on them
    fetch = local["fetch"] | {"max_train_pairs": 40, "max_eval_pairs": 8}
    steps = {"max_steps": 2, "batch_size": 2, "micro_batch_size": 1, "lora": LORA}
    base = preset["base"] | {"path": "given", "revision": None, "dtype": "bfloat16"}
    return {
        "threads": 2,
        "fetch": fetch,
        "base": base,
        "judge": local["judge"] | {"max_steps": 2},
        "validate": local["validate"] | {"min_train_pairs": 20, "min_eval_pairs": 4},
        "sft": preset["sft"] | steps,
        "align": preset["align"] | steps,
        "sample.max_prompts": 2,
        "sample.max_new_tokens": 8,
        "sample.batch_size": 2,
        "kl.batch_size": 1,
        "runs": {name: run for name, run in preset["runs"].items() if name in ("dpo_b01", "epsilon_dpo_b01")},
    }


def write_model(to: Path) -> None:
    """Gemma2Config's defaults, which are gemma-2-2b's, and weights drawn at its initializer_range."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Gemma2Config(), dtype=torch.bfloat16)
    assert sum(weights.numel() for weights in model.parameters()) == 2_614_341_888  # google/gemma-2-2b's
    model.save_pretrained(to)
    link_files(TOKENIZER, to)


def forecast(project: Path) -> dict[str, float]:
    """GB by stage, on the CPU."""
    command = [str(BIN / "epsilon-dpo"), "forecast", "--gpus", "0", "--json"]
    done = subprocess.run(command, cwd=project, env=environment(project), text=True, capture_output=True, check=True)
    rows = json.loads(done.stdout)["stages"]
    return {
        f"{row['stage']}@{run}".removesuffix("@"): row["memory"]["total"] / 1e9
        for row in rows
        for run in row["runs"] or [""]
    }


def peak_of(project: Path, stage: str) -> float:
    """Bytes that the largest process held at once while `stage` ran after all that it needs."""
    before = dvc(project, "repro", *BEFORE[stage])
    assert before.returncode == 0, before.stdout[-2000:] + before.stderr[-2000:]
    command, peak = [str(BIN / "dvc"), "repro", "-s", stage], 0
    with (project / "log").open("w+", encoding="utf-8") as log:
        ran = psutil.Popen(command, cwd=project, env=environment(project), stdout=log, stderr=log)
        while ran.poll() is None:
            with suppress(psutil.NoSuchProcess):
                peak = max(peak, *(process.memory_info().rss for process in [ran, *ran.children(recursive=True)]))
            time.sleep(0.2)
        log.seek(0)
        assert ran.returncode == 0, log.read()[-3000:]
    return peak


@pytest.mark.skipif(
    not (TOKENIZER / "tokenizer.json").is_file(), reason=f"{TOKENIZER} is absent; run python tests/fetch_real_models.py"
)
@pytest.mark.skipif(psutil.virtual_memory().available < 20e9, reason="20 GB of memory are not free")
def test_the_presets_path_on_its_models_shape(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "gemma")
    link_files(real_hh_folder(), project / "data/hh-rlhf")
    write_model(project / "given")
    with_preset(project, "hh-gemma-2-2b", changes(project))
    peaks = {stage: peak_of(project, stage) / 1e9 for stage in BEFORE}
    expected = forecast(project)  # by the lengths of the pairs, which are there by now
    for stage, peak in peaks.items():
        print(f"{stage}: peak {peak:.1f} GB, forecast {expected[stage]:.1f} GB of tensors")
        assert peak > 5.2, "no stage holds less than the weights"
    done = dvc(project, "repro", "score@epsilon_dpo_b01")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert metrics_of(project, "align/metrics/epsilon_dpo_b01")["steps"] == 2
    assert metrics_of(project, "kl/epsilon_dpo_b01")["kl_fwd_rb"] == pytest.approx(0.0, abs=1e-3), "two small steps"
    assert len(read_jsonl(project / "out/sample/epsilon_dpo_b01/samples.jsonl")) == 2
