"""A stop or pad token that a tokenizer at hand does not have: said before anything runs."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.check.params_file import load_file
from epsilon_dpo.check.tokens import require_tokens
from epsilon_dpo.models.base.params import PretrainedModel
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.params import read_yaml

ROOT = Path(__file__).resolve().parents[2]
REAL_MODELS = Path(os.environ.get("EPSILON_DPO_REAL_MODELS") or Path.home() / ".cache" / "epsilon-dpo")
BPE: Any = {"a": 0, "b": 1}
UNIGRAM: Any = [["a", 0.0], ["b", -1.5]]


def model(folder: Path, **changes: Any) -> dict[str, Any]:
    block = {"source": "pretrained", "path": str(folder), "revision": None, "dtype": "float32", "chat_template": "own"}
    return block | {"stop_token": "<|im_end|>"} | changes


@pytest.mark.parametrize("vocabulary", [BPE, UNIGRAM], ids=["bpe", "unigram"])
def test_what_no_file_of_the_tokenizer_has_is_refused(tmp_path: Path, vocabulary: Any) -> None:
    tokenizer = {"added_tokens": [{"id": 2, "content": "<|im_end|>"}], "model": {"vocab": vocabulary}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {"3": {"content": "<pad>"}}}))
    file = tmp_path / "params.yaml"
    content = read_yaml(ROOT / "params.yaml")
    for changes in ({}, {"stop_token": "b"}, {"pad_token": "<pad>"}):
        file.write_text(json.dumps(content | {"base": model(tmp_path, **changes)}))
        assert load_file(file)
    for key, token, hint in (("stop_token", "<|im_ende|>", "did you mean '<|im_end|>'?"), ("pad_token", "c", "choose")):
        file.write_text(json.dumps(content | {"base": model(tmp_path, **{key: token})}))
        with pytest.raises(UserError) as error:
            load_file(file)
        said = f"{file}: base.{key} = {token!r} is no token of the vocabulary in {tmp_path}/tokenizer.json; {hint}"
        assert str(error.value).startswith(said)


def test_the_model_of_a_reward_model_is_asked_too_and_a_damaged_file_is_left_to_its_stage(tmp_path: Path) -> None:
    content, preset = (read_yaml(ROOT / name) for name in ("params.yaml", "presets/rlhf.yaml"))
    judge = preset["judge"] | {"model": model(tmp_path)}
    file = tmp_path / "params.yaml"
    file.write_text(json.dumps(content | {"judge": judge}))
    for text in ("[", "{}", '{"added_tokens": [], "model": null}'):
        (tmp_path / "tokenizer.json").write_text(text)
        assert load_file(file)
    (tmp_path / "tokenizer.json").write_text('{"added_tokens": [], "model": {"vocab": {}}}')
    with pytest.raises(UserError, match=r"judge\.model\.stop_token = '<\|im_end\|>' is no token of the vocabulary"):
        load_file(file)


@pytest.mark.slow
@pytest.mark.skipif(not REAL_MODELS.is_dir(), reason="python tests/fetch_real_models.py fetches them")
def test_published_tokenizers_have_the_tokens_that_end_their_turns() -> None:
    ends = {"SmolLM2-135M-Instruct": "<|im_end|>", "gemma-2-tokenizer": "<end_of_turn>", "llama-2-tokenizer": "</s>"}
    ends |= {"gemma-3-tokenizer": "<end_of_turn>", "llama-3-tokenizer": "<|eot_id|>", "qwen-3-tokenizer": "<|im_end|>"}
    for name, token in ends.items():
        require_tokens(PretrainedModel(**model(REAL_MODELS / name, stop_token=token)), "base", Path("params.yaml"))
