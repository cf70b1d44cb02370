"""The chat template of a pretrained model: each fault is one sentence, and what is rendered stays the same."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from epsilon_dpo.data.tokens.tokenisation import dialogue_text, tokenise_sides
from epsilon_dpo.models.base.embedded import train_tokenizer
from epsilon_dpo.models.base.params import EmbeddedModel
from epsilon_dpo.models.base.template import faults, freeze, notes
from epsilon_dpo.pipeline.observability.errors import UserError

TURNS = "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
ASKS = "{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
GOOD = "{{ bos_token }}" + TURNS + ASKS


def made(template: str, adds_bos: bool = True, **changes: str) -> PreTrainedTokenizerFast:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.06}
    params = EmbeddedModel(source="embedded", vocab_size=400, max_position_embeddings=256, **sizes, **heads)  # type: ignore[arg-type]
    tokenizer = train_tokenizer(
        ["user\n", "assistant\n", "Yes it is.", "A: Yes", "A: no", "A: The", "A: It"] * 9, params
    )
    tokenizer.chat_template = template
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    if not adds_bos:
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
    return tokenizer


RAISES = "it cannot render a question and its answer ("
OTHER_END = "and not with the stop token <end_of_turn>"
BAD: dict[str, tuple[str, str]] = {
    "no BOS": (TURNS + ASKS, "it writes no BOS (<bos>), which the tokenizer puts before every other text"),
    "two BOS": ("{{ bos_token }}" + GOOD, "it writes 2 BOS tokens (<bos>)"),
    "BOS later": ("Dialogue: " + GOOD, "it does not begin with the BOS (<bos>) that it writes"),
    "two stops": (
        GOOD.replace("<end_of_turn>", "<end_of_turn><end_of_turn>"),
        "it writes the stop token <end_of_turn> 2",
    ),
    "no stop": (
        GOOD.replace("<end_of_turn>", "<eos>"),
        "it ends an answer with '<eos>' and not with the stop token <end",
    ),
    "no end at all": (
        GOOD.replace("<end_of_turn>", ""),
        "it ends an answer with 'nothing' and not with the stop token",
    ),
    "no generation prompt": (
        "{{ bos_token }}" + TURNS,
        "it has no generation prompt, so that a policy would have to write '<start_of_turn>assistant\\n' itself",
    ),
    "another generation prompt": (
        GOOD.replace("assistant\n", "assistant\n<think>\n"),
        "its generation prompt, which ends with 'n>assistant\\n<think>\\n', is not in the rendered dialogue",
    ),
    "a space that belongs to the answer": (
        GOOD.replace("{{ m.role }}\n", "{{ m.role }}: ").replace("assistant\n", "assistant: "),
        "its generation prompt ends with 'ant: ', which becomes one token with the first of every answer",
    ),
    "escaped text": (
        GOOD.replace("m.content", "m.content|e"),
        "it changes or leaves out the text of an assistant turn",
    ),
    "questions alone in lower case": (
        GOOD.replace("{{ m.content", "{{ m.content if m.role != 'user' else m.content|lower"),
        "it changes or leaves out the text of a user turn",
    ),
    "lines joined": (
        GOOD.replace("m.content", "m.content.split()|join(' ')"),
        "it changes or leaves out the text of an assistant turn",
    ),
    "a key that no row has": (GOOD.replace("m.content", "m.text.strip()"), RAISES),
    "a slip of its author": (GOOD.replace("m.content", "m.content + 1"), RAISES),
    "a tag left open": (GOOD + "{% if", RAISES),
    "another role's name": (GOOD.replace("{{ m.role }}", "{{ {'human': 1}[m.role] + 1 }}"), RAISES),
}


# Llama 2's and Mistral's: no generation prompt, and an answer's space is its own, which a policy samples with it.
SPACED = (
    "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}<end_of_turn>"
    "{% else %}{{ bos_token }}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("name", BAD)
def test_a_fault_is_named(name: str) -> None:
    template, sentence = BAD[name]
    found = list(faults(made(template)))
    assert found and found[0].startswith(sentence) and "\n" not in found[0]


@pytest.mark.parametrize(
    ("template", "adds_bos", "expected"),
    [
        (GOOD, True, []),
        (GOOD.replace("m.content", "m.content|trim"), True, []),
        (TURNS + ASKS, False, ["writes no BOS (<bos>)"]),
        (SPACED, True, []),
        ("{{ bos_token }}" + TURNS + "{{ '<start_of_turn>assistant\n' }}", True, []),  # Llama 3's first one
        (
            GOOD.replace("{{ m.content", "{{ '[]' * (m.role == 'assistant') }}{{ m.content"),
            True,
            ["begins an answer with '[]'"],
        ),
        (GOOD.replace("<start_of_turn>{{", "{{ raise_exception('x') if m.role == 'system' }}<start_of_turn>{{"), True,
         ["has no system role"]),
        (GOOD.replace("m.content", "m.content.split('</think>')[-1]"), True, ["cuts <think> from answers"]),
        (GOOD.replace("m.content", "m.content if loop.last else m.content.split('</think>')[-1]"), True,
         ["cuts <think> from earlier answers"]),
        (GOOD.replace("in messages", "in messages[-2 if messages[-1].role == 'assistant' else -1:]"), True,
         ["has no system role", "cuts <think> from earlier answers", "writes no earlier turns"]),
    ],
)  # fmt: skip
def test_what_is_unusual_but_right_is_noted(template: str, adds_bos: bool, expected: list[str]) -> None:
    tokenizer = made(template, adds_bos)
    assert list(faults(tokenizer)) == [] and notes(tokenizer) == expected


QUESTION: list[dict[str, Any]] = [{"role": "user", "content": "Which day?"}]
# The way of Llama 3.2, SmolLM3 and gpt-oss.
DATED = "{%- if strftime_now is defined %}{%- set day = strftime_now('%d %b %Y') %}{%- endif %}" + GOOD.replace(
    "{{ bos_token }}", '{{ bos_token }}{{ day }} {{ strftime_now("%A") }}'
)


@pytest.fixture
def other_days(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime(2031, 5, 6)

    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    yield 2031


def test_todays_date_is_another_day_that_stays(other_days: int) -> None:
    tokenizer = made(DATED)
    assert dialogue_text(tokenizer, QUESTION).startswith("<bos>06 May 2031 Tuesday"), "the clock of this test works"
    tokenizer.chat_template = freeze(DATED, "<end_of_turn>", "<end_of_turn>", bos_first=False)
    assert dialogue_text(tokenizer, QUESTION).startswith("<bos>26 Jul 2024 Friday<start_of_turn>user\nWhich day?")
    assert list(faults(tokenizer)) == [] and notes(tokenizer) == ["has its date fixed to 2024-07-26"]
    again = freeze(str(tokenizer.chat_template), "<end_of_turn>", "<end_of_turn>", bos_first=False)
    assert again == tokenizer.chat_template, "a model of this project may be given to it again"


def test_a_date_in_a_form_that_cannot_be_known_is_refused() -> None:
    with pytest.raises(UserError, match="it writes today's date in a form that it computes"):
        freeze(DATED.replace("'%d %b %Y'", "'%d ' + form"), None, "<end_of_turn>", False)


@pytest.mark.parametrize("call", ["['Hi', 'Ho']|random", "lipsum(1)"])
def test_a_template_that_draws_at_random_is_refused(call: str) -> None:
    with pytest.raises(UserError, match="it draws at random, so that its text would not be the same twice"):
        freeze(GOOD.replace("{{ bos_token }}", f"{{{{ bos_token }}}}{{{{ {call} }}}}"), None, "<end_of_turn>", False)


def test_what_the_template_writes_for_eos_stays_when_another_token_stops() -> None:
    """Phi-3 ends a turn with one token and the dialogue with another."""
    template = GOOD + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    tokenizer = made(template)
    assert any("the stop token <end_of_turn> 2 times" in fault for fault in faults(tokenizer))
    tokenizer.chat_template = freeze(template, "<eos>", "<end_of_turn>", False)
    assert list(faults(tokenizer)) == []
    assert dialogue_text(tokenizer, QUESTION).endswith("<end_of_turn>\n<eos>")


def test_a_forgotten_bos_is_put_first() -> None:
    """Zephyr's tokenizer adds one to any text, its template does not."""
    template = "  {% if true %}{% endif %}" + TURNS + ASKS  # the indentation is no text, and must stay none
    tokenizer = made(freeze(template, "<end_of_turn>", "<end_of_turn>", bos_first=True))
    assert dialogue_text(tokenizer, QUESTION).startswith("<bos><start_of_turn>user")
    assert list(faults(tokenizer)) == [] and notes(tokenizer) == []


def test_a_template_with_nothing_to_freeze_stays_as_it_is() -> None:
    assert freeze(GOOD, "<end_of_turn>", "<end_of_turn>", False) == GOOD
    assert freeze(GOOD, "<eos>", "<end_of_turn>", False) == GOOD


def test_ids_do_not_depend_on_the_texts_beside_them() -> None:
    tokenizer = made(GOOD)
    short, long = ([{"role": "assistant", "content": text}] for text in ("Yes.", "Yes it is. " * 20))
    assert tokenise_sides(tokenizer, QUESTION, [short])[0] == tokenise_sides(tokenizer, QUESTION, [short, long])[0]
