"""The chat template: Gemma-2's format to the byte."""

import os
from pathlib import Path

import jinja2
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from epsilon_dpo.models.base.gemma_template import TEMPLATE

REAL = Path(os.environ.get("EPSILON_DPO_REAL_MODELS") or Path.home() / ".cache" / "epsilon-dpo") / "gemma-2-tokenizer"
USER, ANSWER = {"role": "user", "content": " Hi\n\nthere "}, {"role": "assistant", "content": "Yes."}


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(WordLevel({"<bos>": 0}, unk_token="<bos>"))
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", chat_template=TEMPLATE)


def test_format(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.apply_chat_template([USER, ANSWER, USER], tokenize=False, add_generation_prompt=True) == (
        "<bos><start_of_turn>user\nHi\n\nthere<end_of_turn>\n<start_of_turn>model\nYes.<end_of_turn>\n"
        "<start_of_turn>user\nHi\n\nthere<end_of_turn>\n<start_of_turn>model\n"
    )


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([{"role": "system", "content": "Be kind."}, USER], "Gemma has no system role"),
        ([USER, USER], "Roles must alternate"),
        ([ANSWER], "Roles must alternate"),
    ],
)
def test_what_gemma_cannot_say_is_refused(
    tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]], sentence: str
) -> None:
    with pytest.raises(jinja2.TemplateError, match=sentence):
        tokenizer.apply_chat_template(messages, tokenize=False)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is absent; python tests/fetch_real_models.py")
def test_the_same_as_the_real_template() -> None:
    real = PreTrainedTokenizerFast.from_pretrained(REAL)
    for messages in ([USER], [USER, ANSWER], [USER, ANSWER, USER]):
        for generation in (True, False):
            ours, theirs = (
                real.apply_chat_template(
                    messages, chat_template=template, tokenize=False, add_generation_prompt=generation
                )
                for template in (TEMPLATE, real.chat_template)
            )
            assert ours == theirs
