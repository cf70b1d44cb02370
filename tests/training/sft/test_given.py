"""`sft: null`: the reference is the base model itself."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from epsilon_dpo.check.params_file import ParamsFile
from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.models.base.model_folder import write_model
from epsilon_dpo.models.policy.folder import load_policy
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl
from epsilon_dpo.pipeline.stage.params import parse, read_yaml
from epsilon_dpo.training.loop.adapters import start_from
from epsilon_dpo.training.loop.params import LoRA
from epsilon_dpo.training.sft.given import take_given

ROOT = Path(__file__).resolve().parents[3]
FITS = Tokens(max_prompt_length=32, max_length=64)  # as many as the model has positions
LORA = LoRA(r=2, lora_alpha=4, lora_dropout=0.0, target_modules="all-linear", quantise=None)


@pytest.fixture
def base(sft_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """out/base as stage base leaves it; its files protected, as DVC's cache leaves them."""
    folder = sft_folder(torch.bfloat16)
    write_model(load_policy(folder), load_tokenizer(folder), tmp_path / "base")
    for file in (tmp_path / "base").rglob("*.*"):
        file.chmod(0o444)
    return tmp_path / "base"


def test_texts_longer_than_its_positions_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokens.max_length = 65 exceeds the 64 positions of the model"):
        take_given(base, Tokens(max_prompt_length=32, max_length=65), tmp_path)
    assert not (tmp_path / "model").exists()


def test_the_policy_is_the_base_model_to_the_byte_and_complete(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert take_given(base, FITS, out) == read_json(out / "metrics.json") == {"steps": 0}
    assert read_jsonl(out / "metrics.jsonl") == []
    given, policy = load_policy(base / "model"), load_policy(out / "model")
    assert all(map(torch.equal, given.state_dict().values(), policy.state_dict().values()))
    assert policy.dtype == torch.bfloat16
    assert load_tokenizer(out / "model").eos_token_id == policy.generation_config.eos_token_id == 2
    assert (out / "model/model.safetensors").read_bytes() == (base / "model/model.safetensors").read_bytes()
    for file in (out / "model").iterdir():
        assert file.stat().st_mode & 0o200 and not file.is_symlink(), "a later stage may not write into DVC's cache"


def test_an_adapter_is_trained_on_it(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    take_given(base, FITS, out)
    model = start_from(out / "model", LORA, seed=1)
    assert sum(weight.requires_grad for weight in model.parameters()) == 2 * 2 * 7


def test_an_untrained_reference_is_refused() -> None:
    content = read_yaml(ROOT / "params.yaml") | {"sft": None}
    with pytest.raises(UserError, match="embedded has random weights") as error:
        parse(ParamsFile, content)
    assert len(str(error.value)) < 300
    content["base"] = read_yaml(ROOT / "presets/hh-gemma-2-2b.yaml")["base"]
    assert parse(ParamsFile, content).sft is None
