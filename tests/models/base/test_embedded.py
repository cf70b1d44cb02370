"""The embedded default: any text survives its tokenizer, and two builds are the same bytes."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from epsilon_dpo.data.sources.generated import read_synthetic
from epsilon_dpo.data.sources.params import SyntheticSource
from epsilon_dpo.models.base.embedded import BYTES, SPECIAL, build_model, texts_of, train_tokenizer
from epsilon_dpo.models.base.model_folder import write_model
from epsilon_dpo.models.base.params import EmbeddedModel
from epsilon_dpo.pipeline.stage.fingerprint import digest

DIALOGUE = [{"role": "user", "content": "Tell me about the Moon."}, {"role": "assistant", "content": "Good question!"}]

TIED = [chr(ord("一") + place) for place in range(300)]


def params(**changes: Any) -> EmbeddedModel:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.06}
    settings = {"source": "embedded", "vocab_size": 600, "max_position_embeddings": 256, **sizes, **heads, **changes}
    return EmbeddedModel(**settings)


def rows() -> list[dict[str, Any]]:
    source = SyntheticSource(source="synthetic", train_pairs=300, eval_share=0.5, label_temperature=1.0)
    return read_synthetic(source, 17).train


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(texts_of(rows()), params())


def test_special_and_byte_tokens_stand_where_gemma_has_them(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_ids_to_tokens(list(range(262))) == SPECIAL + BYTES
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 2, 5)
    assert len(tokenizer) == 600


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=40)


@given(text=TEXTS)
def test_any_text_decodes_to_itself(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    """Also in scripts and line ends that the training texts never had ("▁" is the one exception, as in Gemma)."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not any(token in text for token in SPECIAL):
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert tokenizer.unk_token_id not in ids


@given(answer=TEXTS)
def test_the_prompts_ids_begin_the_pairs_ids(tokenizer: PreTrainedTokenizerFast, answer: str) -> None:
    """Whatever the answer begins with: no token crosses the template's last line break."""

    def ids(messages: list[dict[str, str]], **options: Any) -> list[int]:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    prompt = ids(DIALOGUE[:1], add_generation_prompt=True)
    pair = ids([DIALOGUE[0], {"role": "assistant", "content": answer}])
    assert pair[: len(prompt)] == prompt
    assert pair.count(tokenizer.bos_token_id) == 1
    assert pair[-2] == tokenizer.eos_token_id or "<end_of_turn>" in answer


def test_words_are_learnt_and_never_joined(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("Paris is the capital of France.", add_special_tokens=False)["input_ids"]
    assert len(ids) <= 12
    assert all("▁" not in token[1:] for token in tokenizer.get_vocab() if token not in SPECIAL)


def tied_texts() -> list[str]:
    """300 characters, each exactly as frequent as the others, and thousands of pairs that occur twice."""
    shuffler = random.Random(0)
    return ["".join(shuffler.sample(TIED, len(TIED))) for _ in range(20)] * 2


def write_both(folder: Path) -> None:
    """A model of the embedded dialogues, and a tokenizer with ties in its alphabet and in its merges."""
    tokenizer = train_tokenizer(texts_of(rows()), params())
    write_model(build_model(params(), tokenizer, 7), tokenizer, folder)
    train_tokenizer(tied_texts(), params(vocab_size=500)).save_pretrained(folder / "tied")


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(tmp_path: Path, other_order: dict[str, str]) -> None:
    """Tokenizer, weights and configurations: DVC compares them by content. The other's sets are in another order."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); "
        "from test_embedded import write_both; write_both(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "there"), str(Path(__file__).parent)]
    process = subprocess.Popen(command, env=other_order)
    write_both(tmp_path / "here")
    assert process.wait() == 0
    assert digest(tmp_path / "here") == digest(tmp_path / "there")


def test_the_rarest_characters_are_spelt_in_bytes() -> None:
    """At 500 tokens there is room for 119 characters: the frequent one, and of the tied ones the first code points."""
    texts = [*tied_texts(), TIED[-1]]
    learnt = set(train_tokenizer(texts, params(vocab_size=500)).get_vocab()) - {*SPECIAL, *BYTES}
    assert sorted(token for token in learnt if len(token) == 1) == [*TIED[:118], TIED[-1]]
    longer = [token for token in learnt if len(token) > 1]
    assert len(longer) == 119
    assert all(any(token in text for text in texts) for token in longer)  # none reaches over a character left out


def test_the_folder_loads_and_agrees_on_the_stop_token(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = build_model(params(), tokenizer, 7)
    write_model(model, tokenizer, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    again = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert loaded.generation_config.eos_token_id == loaded.config.eos_token_id == again.eos_token_id == 5
    assert (loaded.config.final_logit_softcapping, loaded.config._attn_implementation) == (30.0, "eager")
    # Attention is scaled by the size of a head, and every second layer sees half of the positions.
    assert (loaded.config.query_pre_attn_scalar, loaded.config.sliding_window) == (8, 128)
    ids = again.apply_chat_template(DIALOGUE, return_dict=False)
    assert ids == tokenizer.apply_chat_template(DIALOGUE, return_dict=False)
    with torch.inference_mode():
        assert torch.equal(loaded(torch.tensor([ids])).logits, model.eval()(torch.tensor([ids])).logits)
    assert (tmp_path / "model" / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_another_seed_is_another_model(tokenizer: PreTrainedTokenizerFast) -> None:
    first, second = (build_model(params(), tokenizer, seed).model.embed_tokens.weight for seed in (1, 2))
    assert not torch.equal(first, second)
