"""`epsilon-dpo forecast` on the default and on every preset: what it says, and what it cannot say."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from forecast_sizes import SIZES

from epsilon_dpo.check.params_file import load_file
from epsilon_dpo.cli import main
from epsilon_dpo.forecast.forecast import needs_of
from epsilon_dpo.forecast.machine import Machine
from epsilon_dpo.forecast.table import table
from epsilon_dpo.pipeline.stage.files import write_json, write_jsonl
from epsilon_dpo.pipeline.stage.params import read_yaml

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
NOT_AT_HAND = [file for file in PRESETS if read_yaml(file)["base"]["source"] == "pretrained"]
# What is said of the judge beside such a model: its config is not at hand either, or stage judge trains it.
PAIRRM = r"  score: The config of judge\.path = llm-blender/PairRM-hf is not at hand"
JUDGES = {
    "hh-gemma-2-2b": PAIRRM,
    "study-smollm2": r"  score: The config of judge\.model\.path = models/SmolLM2-135M-Instruct is not at hand",
    "ultrafeedback-llama-3-8b": PAIRRM,
    "ultrafeedback-llama-3-8b-on-policy": PAIRRM,
    "ultrafeedback-mistral-7b": PAIRRM,
    "ultrafeedback-mistral-7b-lora": PAIRRM,
    "ultrafeedback-smollm2": r"judge +0\.\d+ ",
}
LLAMA = {**SIZES, "model_type": "llama", "vocab_size": 500, "max_position_embeddings": 8192}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where no pairs are made yet: the repository may hold those of a `dvc repro`, whose lengths would count."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stages(printed: str) -> dict[str, dict]:
    return {f"{one['stage']}@{one['runs'][0]}" if one["stage"] == "align" else one["stage"]: one for one in printed}


def test_the_default(project: Path, capsys: pytest.CaptureFixture) -> None:
    main(["forecast", "--gpus", "0"])
    said = capsys.readouterr().out
    assert said.startswith("0.2 M parameters (2 layers of 64, a vocabulary of 768), on the CPU.")
    assert "align@dpo and 1 more" in said and "align@tr_dpo" in said
    assert "3,000 pairs, each as long as tokens.max_length allows" in said
    assert "0.35 of 0.1 TFLOP/s a thread, an assumption" in said


def test_lengths_of_pairs_that_are_there(project: Path, capsys: pytest.CaptureFixture) -> None:
    """100 pairs of 6 + 4 + 2 tokens, 16 rows at once, 3 epochs of SFT."""
    ids = {"prompt_ids": [1] * 6, "chosen_ids": [1] * 4, "rejected_ids": [1] * 2}
    (project / "out/pairs").mkdir(parents=True)
    for split in ("train", "eval"):
        write_jsonl(project / f"out/pairs/{split}.jsonl", [ids] * 100)
    main(["forecast", "--json", "--gpus", "0"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["lengths"] == {"measured": True, "pairs": 100}
    sft = stages(printed["stages"])["sft"]
    body = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 256)  # on a CPU TRL scores prompts too
    per_sequence = 3 * 2 * body * 10 + 3 * 4 * 2 * 64 * 100 + 4 * 2 * 768 * 64 * 10
    assert sft["flops"] == pytest.approx(3 * 100 * per_sequence)
    assert sft["hours"] == pytest.approx(sft["flops"] / (0.35 * 1e11) / 3600)
    parts = [value for name, value in sft["memory"].items() if name != "total"]
    assert sft["memory"]["total"] == sum(parts)
    assert sft["disk"]["out"] == 4 * printed["model"]["parameters"]
    assert stages(printed["stages"])["base"]["disk"] == {"out": sft["disk"]["out"], "scratch": 0.0}


def test_lengths_of_pairs_that_were_made_from_other_params_are_not_used(
    project: Path, capsys: pytest.CaptureFixture
) -> None:
    """As after `cp presets/NAME.yaml params.yaml`: a tiny model's pairs told that a large one fits."""
    ids = {"prompt_ids": [1] * 6, "chosen_ids": [1] * 4, "rejected_ids": [1] * 2}
    (project / "out/pairs").mkdir(parents=True)
    for split in ("train", "eval"):
        write_jsonl(project / f"out/pairs/{split}.jsonl", [ids] * 100)
    tokens = read_yaml(project / "params.yaml")["tokens"]
    for limits, measured in ((tokens, True), (tokens | {"max_length": 96}, False)):
        write_json(project / "dvc.lock", {"stages": {"pairs": {"params": {"params.yaml": {"tokens": limits}}}}})
        main(["forecast", "--json", "--gpus", "0"])
        assert json.loads(capsys.readouterr().out)["lengths"]["measured"] is measured


@pytest.mark.parametrize("file", NOT_AT_HAND, ids=lambda file: file.stem)
def test_a_model_that_is_not_at_hand(
    project: Path, file: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(project / "cache"))
    with pytest.raises(SystemExit, match=r"is not at hand.*give its config.json with --model-config FILE"):
        main(["forecast", "--params", str(file)])
    write_json(project / "config.json", LLAMA)
    main(["forecast", "--params", str(file), "--model-config", "config.json", "--gpus", "4", "--pairs", "1000"])
    said = capsys.readouterr().out
    assert "on 4 GPUs with FSDP2" in said and "1,000 pairs" in said
    copies = re.findall(r"^(base|sft)(?: +–){10} +(\S+)", said, re.MULTILINE)  # a model's own bytes, and no memory
    assert [stage for stage, _ in copies] == ["base", *["sft"] * (read_yaml(file)["sft"] is None)]
    assert len({size for _, size in copies}) == 1
    assert re.search(f"^{JUDGES[file.stem]}", said, re.MULTILINE)


@pytest.mark.parametrize("file", [file for file in PRESETS if file not in NOT_AT_HAND], ids=lambda file: file.stem)
def test_presets_with_a_model_of_their_own(project: Path, file: Path, capsys: pytest.CaptureFixture) -> None:
    main(["forecast", "--params", str(file), "--json", "--gpu-memory", "40", "--peak-tflops", "312"])
    printed = json.loads(capsys.readouterr().out)
    assert (printed["machine"]["memory"], printed["machine"]["peak"]) == (40e9, 312e12)  # bytes and FLOP/s
    found = stages(printed["stages"])
    assert {"sft", "sample", "kl", "monotonicity", "score"} <= found.keys()
    assert all(one["memory"]["total"] > 0 for name, one in found.items() if name in ("sft", "sample", "kl"))


def test_whether_it_fits() -> None:
    """Of the default, whose states take 3 MB and whose activations 0.3 GB."""
    of, needs = needs_of(load_file(ROOT / "params.yaml"), Machine())
    needs = [one for one in needs if one.stage == "align" and "dpo" in one.runs]

    def said(gigabytes: float, machine: Machine = of.machine) -> str:
        return table(replace(of, machine=replace(machine, memory=gigabytes * 1e9)), needs).splitlines()[-1]

    assert re.match(
        r"It fits: align@dpo and 1 more needs 0\.\d+ GB of 80 GB per GPU, a tenth of which is left", said(80)
    )
    assert re.match(r"It does not fit: .*; set align.gradient_checkpointing to true, or lower the", said(0.1))
    assert said(0.002).endswith("; take more GPUs with FSDP (--gpus 2), or set align.lora.")
    assert said(0.002, Machine(gpus=4)).endswith("; take more GPUs with FSDP (--gpus 8), or set align.lora.")
    assert said(0.002, Machine(gpus=4, shard="none")).endswith("(--shard fsdp), or set align.lora.")


def test_a_file_that_describes_no_model(project: Path) -> None:
    (project / "config.json").write_text('{"model_type": "unheard_of"}', "utf-8")
    with pytest.raises(SystemExit, match=r"config\.json is no config of a model that transformers knows"):
        main(["forecast", "--model-config", "config.json"])
    (project / "config.json").write_text('{"model_type": "mamba", "hidden_size": 8, "num_hidden_layers": 1}', "utf-8")
    with pytest.raises(SystemExit, match="MambaConfig names no attention heads: a model without attention"):
        main(["forecast", "--model-config", "config.json"])
    sizes = '"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2'
    (project / "config.json").write_text(f'{{"model_type": "mixtral", {sizes}}}', "utf-8")
    with pytest.raises(SystemExit, match="MixtralConfig is a mixture of experts, which is not forecast"):
        main(["forecast", "--params", str(ROOT / "presets/hh-gemma-2-2b.yaml"), "--model-config", "config.json"])


@pytest.mark.parametrize("option", ["--pairs", "--gpus", "--gpu-memory", "--peak-tflops", "--mfu"])
def test_an_amount_that_is_none_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    for amount in ("-1", "nan", "inf", "x", *(["0"] if option != "--gpus" else [])):
        with pytest.raises(SystemExit):
            main(["forecast", f"{option}={amount}"])
        assert f"argument {option}: '{amount}' is no " in capsys.readouterr().err


def test_what_cannot_be_read_is_one_sentence(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["forecast", "--params", "."])
    assert str(ended.value) == "ERROR: . cannot be read (Is a directory)."
