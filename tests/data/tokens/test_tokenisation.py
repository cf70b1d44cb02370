"""Prompt and answers as ids: exact for a case that can be read, refused where a policy could not have sampled them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.data.tokens.tokenisation import prompt_ids, tokenise_chosen, tokenise_pair
from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.pipeline.observability.errors import UserError

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]
REAL = Path(os.environ.get("EPSILON_DPO_REAL_MODELS") or Path.home() / ".cache" / "epsilon-dpo")
WIDE = Tokens(max_prompt_length=200, max_length=400)
# Without anything between the turns, a token can span the border of prompt and answer.
NO_BORDER = (
    "{{ bos_token }}{% for m in messages %}{{ m.content }}"
    "{% if m.role == 'assistant' %}<end_of_turn>{% endif %}{% endfor %}"
)


def pair(prompt: str = "What is a whale?", chosen: str = "Good question!", rejected: str = "No.") -> dict[str, Any]:
    return {
        "id": "set/train/7",
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def test_the_ids_spell_the_template_up_to_the_stop_token(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer()
    ids = tokenise_pair(tokenizer, pair(), WIDE)
    prompt = "<bos><start_of_turn>user\nWhat is a whale?<end_of_turn>\n<start_of_turn>model\n"
    assert tokenizer.decode(ids["prompt_ids"]) == prompt
    assert tokenizer.decode(ids["chosen_ids"]) == "Good question!<end_of_turn>", "Gemma's line break is cut"
    assert tokenizer.decode(ids["rejected_ids"]) == "No.<end_of_turn>"
    assert ids["prompt_ids"].count(tokenizer.bos_token_id) == 1, "the tokenizer adds one of its own unless asked not to"
    assert prompt_ids(tokenizer, pair()["prompt"]) == ids["prompt_ids"]


def test_answers_are_cut_on_the_right_and_prompts_never(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer()
    untruncated = tokenise_pair(tokenizer, pair(), WIDE)
    length = len(untruncated["prompt_ids"])
    assert len(untruncated["rejected_ids"]) == 3 < len(untruncated["chosen_ids"])
    cut = tokenise_pair(tokenizer, pair(), Tokens(max_prompt_length=length, max_length=length + 3))
    assert cut["prompt_ids"] == untruncated["prompt_ids"]
    assert cut["chosen_ids"] == untruncated["chosen_ids"][:3]
    assert cut["rejected_ids"] == untruncated["rejected_ids"]
    with pytest.raises(UserError, match=f"set/train/7: its prompt has {length} tokens, more than .* = {length - 1}"):
        tokenise_pair(tokenizer, pair(), Tokens(max_prompt_length=length - 1, max_length=300))


def test_the_chosen_side_alone_is_that_of_the_pair(make_tokenizer: MakeTokenizer) -> None:
    """Whatever the rejected side is, which is not looked at."""
    tokenizer = make_tokenizer()
    untruncated = tokenise_pair(tokenizer, pair(), WIDE)
    length = len(untruncated["prompt_ids"])
    for tokens in (WIDE, Tokens(max_prompt_length=length, max_length=length + 3)):
        ids = tokenise_pair(tokenizer, pair(), tokens)
        assert tokenise_chosen(tokenizer, pair() | {"rejected": None}, tokens) == (ids["prompt_ids"], ids["chosen_ids"])
    with pytest.raises(UserError, match=r"The chosen side of row .* never cut"):
        tokenise_chosen(tokenizer, pair(), Tokens(max_prompt_length=length - 1, max_length=300))


def test_a_token_across_the_border_is_refused(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(chat_template=NO_BORDER)
    ids = tokenise_pair(tokenizer, pair("What is a whale?", "Good", "No."), WIDE)
    assert tokenizer.decode(ids["chosen_ids"]) == "Good<end_of_turn>"
    with pytest.raises(UserError, match=r"chosen side of row set/train/7: .* do not begin with the ids of the prompt"):
        tokenise_pair(tokenizer, pair("Tell me about the Mo", "on.", ". No."), WIDE)


def test_a_template_without_the_stop_token_is_refused(make_tokenizer: MakeTokenizer) -> None:
    """Else a policy would learn never to stop."""
    with pytest.raises(UserError, match="does not end an answer with the tokenizer's eos token <eos>"):
        tokenise_pair(make_tokenizer(eos_token="<eos>"), pair(), WIDE)


def test_what_the_template_refuses_is_one_sentence(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(UserError, match=r"refuses a dialogue with the roles system: [^.]*\.$"):
        prompt_ids(make_tokenizer(), [{"role": "system", "content": "Be kind."}])


def test_a_first_word_has_its_space_only_where_the_joint_text_has_it(make_tokenizer: MakeTokenizer) -> None:
    """Tokenised alone, an answer would get the space that such tokenizers (Llama 2, Mistral) put before each text."""
    tokenizer = make_tokenizer()
    core = tokenizer.backend_tokenizer
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), core.normalizer])
    alone = tokenizer("No.", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(alone)[0].startswith("▁")
    joint = tokenise_pair(tokenizer, pair(), WIDE)["rejected_ids"]
    assert not tokenizer.convert_ids_to_tokens(joint)[0].startswith("▁")


def test_neither_transformers_nor_torch_is_imported_without_need() -> None:
    code = (
        "import sys, epsilon_dpo.data.tokens.tokenisation; assert 'transformers' not in sys.modules;"
        "import epsilon_dpo.data.tokens.tokenizer; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_tokenizer_is_saved_as_the_same_bytes_offline(make_tokenizer: MakeTokenizer, tmp_path: Path) -> None:
    """transformers writes down whether it was offline, and a policy's sha256 covers its tokenizer."""
    make_tokenizer().save_pretrained(tmp_path / "base")
    code = (
        "import sys; from pathlib import Path; from epsilon_dpo.data.tokens.tokenizer import load_tokenizer;"
        "load_tokenizer(Path(sys.argv[1]) / 'base').save_pretrained(Path(sys.argv[1]) / sys.argv[2])"
    )
    for name, offline in (("online", "0"), ("offline", "1")):
        environment = os.environ | {"HF_HUB_OFFLINE": offline}
        subprocess.run([sys.executable, "-c", code, str(tmp_path), name], env=environment, check=True)
    written = {file.name: file.read_bytes() for file in (tmp_path / "online").iterdir()}
    assert written == {file.name: file.read_bytes() for file in (tmp_path / "offline").iterdir()}


def test_a_folder_without_a_tokenizer_or_a_template_is_named(make_tokenizer: MakeTokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no tokenizer\.json"):
        load_tokenizer(tmp_path)
    make_tokenizer(chat_template=None).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no chat_template"):
        load_tokenizer(tmp_path)


def real_tokenizer(name: str) -> PreTrainedTokenizerFast:
    if not (REAL / name / "tokenizer.json").is_file():
        pytest.skip(f"{REAL / name} is absent; run python tests/fetch_real_models.py")
    return load_tokenizer(REAL / name)


@pytest.mark.slow
def test_gemma_2_by_its_own_template() -> None:
    tokenizer = real_tokenizer("gemma-2-tokenizer")
    tokenizer.eos_token = "<end_of_turn>"
    ids = tokenise_pair(tokenizer, pair("Hi  there", "Hello", "\n\nNo."), WIDE)
    assert ids["prompt_ids"] == [2, 106, 1645, 108, 2151, 139, 11048, 107, 108, 106, 2516, 108]
    assert ids["chosen_ids"] == [4521, 107]
    assert tokenizer.decode(ids["rejected_ids"]) == "No.<end_of_turn>", "the template trims"


@pytest.mark.slow
def test_smollm2_by_its_own_template() -> None:
    """Its BOS opens each turn, a default system message comes first, and pad is eos."""
    tokenizer = real_tokenizer("SmolLM2-135M-Instruct")
    ids = tokenise_pair(tokenizer, pair(), WIDE)
    text = str(tokenizer.decode(ids["prompt_ids"]))
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant")
    assert text.endswith("<|im_end|>\n<|im_start|>user\nWhat is a whale?<|im_end|>\n<|im_start|>assistant\n")
    assert ids["prompt_ids"].count(tokenizer.bos_token_id) == 3
    assert tokenizer.decode(ids["chosen_ids"]) == "Good question!<|im_end|>"
    with pytest.raises(UserError, match="a policy could never sample this answer"):
        tokenise_pair(tokenizer, pair(chosen="\n\nGood"), WIDE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["gemma-2-tokenizer", "gemma-3-tokenizer", "llama-3-tokenizer", "qwen-3-tokenizer", "SmolLM2-135M-Instruct"],
)
def test_the_light_loader_gives_what_auto_tokenizer_gives(name: str) -> None:
    light, auto = real_tokenizer(name), AutoTokenizer.from_pretrained(REAL / name)
    for text in ("Hello  world\n\n\nx", " lead", "émile ☃️ 12345", "\tfoo(bar)\n", "<unused3> [@BOS@] <|im_end|>"):
        assert light(text)["input_ids"] == auto(text)["input_ids"]
    messages = pair()["prompt"]
    assert light.apply_chat_template(messages, tokenize=False) == auto.apply_chat_template(messages, tokenize=False)
