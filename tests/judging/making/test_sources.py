import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from epsilon_dpo.judging.judges import pairrm_folder
from epsilon_dpo.judging.judges.interface import Judge, Question
from epsilon_dpo.judging.judges.layout import Layout
from epsilon_dpo.judging.judges.loading import load_judge
from epsilon_dpo.judging.judges.pairrm import PairRM
from epsilon_dpo.judging.making.params import PretrainedJudge, TrainedJudge
from epsilon_dpo.judging.making.small_pairrm import small_config, small_tokenizer
from epsilon_dpo.judging.making.sources import build
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json

REVISION = "f9000bd5dc59f3cd5cd23a4b7bfa63b95f0b14e4"


def pair(question: str, a: str, b: str) -> Question:
    return Question([{"role": "user", "content": question}], a, b)


PAIRS = [pair("which metal", "gold is a metal", "bees make honey"), pair("who", "bees", "gold")]


def pretrained(path: str, revision: str | None = None) -> PretrainedJudge:
    return PretrainedJudge(
        source="pretrained", path=path, revision=revision, source_max_length=1224, candidate_max_length=412,
        budget="example", batch_size=4,
    )  # fmt: skip


def bring(params: PretrainedJudge, out: Path) -> Judge:
    out.mkdir()
    return build(params, [], 0, out, out / "scratch", lambda *_: None, save_steps=1000)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A folder as the Hub has it: no judge.json, and a pickle that must stay behind."""
    from safetensors.torch import save_file

    folder = tmp_path / "PairRM-hf"
    folder.mkdir()
    sizes = TrainedJudge.model_construct(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, position_buckets=8,
        initializer_range=0.3, dropout=0.05, source_max_length=64, candidate_max_length=64,
    )  # fmt: skip
    tokenizer = small_tokenizer((text for question in PAIRS for text in question[1:]), 120)
    torch.manual_seed(0)
    model = PairRM(small_config(sizes, tokenizer), Layout(tokenizer, 64, 64).marker_ids)
    model.pretrained_model.config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors")
    tokenizer.save_pretrained(folder)
    (folder / "training_args.bin").write_bytes(b"a pickle")
    return folder


def test_a_local_folder_is_copied_without_pickles_or_paths(local: Path, tmp_path: Path) -> None:
    out = tmp_path / "judge"
    logits = [verdict.logit for verdict in bring(pretrained(str(local)), out).compare(PAIRS)]
    shutil.rmtree(local)
    assert [verdict.logit for verdict in load_judge(out).compare(PAIRS)] == logits
    assert not (out / "training_args.bin").exists()
    settings = read_json(out / "judge.json")
    assert settings["origin"] == "local folder PairRM-hf"
    assert (settings["source_max_length"], settings["candidate_max_length"], settings["batch_size"]) == (1224, 412, 4)
    assert not any(str(tmp_path).encode() in file.read_bytes() for file in out.iterdir())


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"judge.path = nowhere is no folder; .* judge.revision"):
        bring(pretrained("nowhere"), tmp_path / "judge")


def test_pickled_weights_alone_are_refused(local: Path, tmp_path: Path) -> None:
    (local / "model.safetensors").rename(local / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"PairRM-hf has no model.safetensors; .* pickles"):
        bring(pretrained(str(local)), tmp_path / "judge")


def test_an_unreachable_hub_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as refusal:
        bring(pretrained("llm-blender/PairRM-hf", REVISION), tmp_path / "judge")
    assert "llm-blender/PairRM-hf" in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_rebuilt_tokenizer_of_pairrm_is_refused(local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its vocabulary, but a normaliser without the original's Precompiled step."""
    monkeypatch.setattr(pairrm_folder, "VOCABULARY", len(pairrm_folder.load_tokenizer(local)))
    with pytest.raises(UserError, match="has lost PairRM's normaliser"):
        bring(pretrained(str(local)), tmp_path / "judge")
