"""A model as it is given, without SFT, sampled under top-p, from `base` to the report."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from whole_pipeline import all_stages, copy_project, dvc, metrics_of, repro, with_preset

from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl
from epsilon_dpo.pipeline.stage.fingerprint import digest

pytestmark = [pytest.mark.slow, pytest.mark.campaign]  # a given base, top-p and stop strings have tests of their own

GIVEN = {"source": "pretrained", "path": "given", "revision": None, "dtype": "float32", "chat_template": "own"}
LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear", "quantise": None}
SMALL: dict[str, Any] = {
    "fetch.train_pairs": 1000,
    "judge.max_steps": 30,
    "sft.max_steps": 60,
    "align.max_steps": 4,
    "sample.max_prompts": 24,
    "tournament.max_prompts": 8,
    "margins": None,  # madpo alone reads them
    "runs": {"dpo": {"method": "dpo", "beta": 0.3}},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's model, here the default's SFT policy after some steps, in a folder of the project."""
    project = copy_project(tmp_path_factory.mktemp("given"))
    with_preset(project, "all-methods", SMALL)
    done = dvc(project, "repro", "sft")
    assert done.returncode == 0, done.stderr[-2000:]
    shutil.copytree(project / "out/sft/model", project / "given")
    with_preset(project, "all-methods", SMALL_GIVEN)
    assert set(repro(project)) == all_stages(project) - {"fetch"}
    return project


SMALL_GIVEN = {name: value for name, value in SMALL.items() if not name.startswith("sft.")} | {
    "base": GIVEN | {"stop_token": "<end_of_turn>"},
    "sft": None,
    "align.lora": LORA,
    "sample.logits.top_p": 0.9,
    "sample.stop.strings": ["."],
}


def test_the_reference_is_the_given_model(project: Path) -> None:
    assert metrics_of(project, "sft") == {"steps": 0} and read_jsonl(project / "out/sft/metrics.jsonl") == []
    weights = [project / folder / "model.safetensors" for folder in ("given", "out/sft/model")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    config = read_json(project / "out/align/dpo/model/adapter_config.json")
    assert config["revision"] == digest(project / "out/sft/model")


def test_answers_end_before_the_string(project: Path) -> None:
    rows = read_jsonl(project / "out/sample/dpo/samples.jsonl")
    assert len(rows) == 24 and not any("." in row["response"] for row in rows)
    assert any(row["response_ids"][-1] != 2 and row["finish_reason"] == "stop" for row in rows)


def test_the_report_says_both(project: Path) -> None:
    page = " ".join((project / "out/report/report.html").read_text("utf-8").split())
    assert "No SFT: the reference, which is called SFT on this page, is given." in page
    assert page.count("under top_p 0.9: what is drawn is not the policies&#39; KL") == 1
    assert "<li>Under top_p 0.9: not the policies&#39; KL." in page
    statements = json.loads((project / "out/report/summary.json").read_text("utf-8"))["statements"]
    assert statements[0].startswith("No SFT")


def test_a_second_repro_runs_nothing(project: Path) -> None:
    assert repro(project) == []
