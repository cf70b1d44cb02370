"""The chat template of a pretrained model: frozen, so that every later stage renders the same text, and then probed.

A fault of the template is named here, before any data is judged by it; what is unusual but right is noted. Templates
have no other state than their arguments: the clock and a random draw are all that could make a row's text depend on
more than the row.
"""

import json
import re
from collections.abc import Iterator
from datetime import date
from typing import Any

from transformers import PreTrainedTokenizerBase

from epsilon_dpo.data.facts.bos import BosRule
from epsilon_dpo.data.facts.survival import lost_turn, takes_system_turn
from epsilon_dpo.data.tokens.tokenisation import dialogue_text, prompt_text, tokenise_sides
from epsilon_dpo.pipeline.observability.errors import UserError, first_line
from epsilon_dpo.pipeline.stage.files import Messages

# What the templates of Llama 3.1 and 3.2 write where they are given no clock.
FROZEN_DAY = date(2024, 7, 26)
CLOCK, CLOCK_READ = re.compile(r"\bstrftime_now\s*\("), re.compile(r"\bstrftime_now\s*\(\s*(['\"])(.*?)\1\s*\)")
FROZEN = "{% macro strftime_now(format) %}"  # in a template that is frozen already
RANDOM = re.compile(r"\|\s*random\b|\blipsum\s*\(")

# Every kind of character that a template may not touch, but for white space at the ends.
QUESTION = 'Is 2 < 3 & "4"? \\n {{ x }}\n\n  - An indented  line\n\tÄ 漢字'
REPLY = "Yes: it's <b>true</b>.\n\n    code = {'a':  1}"
SHORT_REPLIES = ("Yes.", "no", "The whale", "It is")
THOUGHT = "<think>\nThey ask for 731.\n</think>\n\nIt is 732."


def freeze(template: str, eos_token: str | None, stop_token: str, bos_first: bool) -> str:
    """`template` with what it takes from elsewhere written into it.

    Args:
        eos_token: the tokenizer's own. What the template writes for it stays, where `stop_token` takes its place in
            the tokenizer (Phi-3's ends a dialogue with eos after the end of the turn).
        bos_first: begin with BOS.

    Raises:
        UserError: "it ...": the template draws at random, or formats the date by a text that is not in it.
    """
    if RANDOM.search(template):
        raise UserError("it draws at random, so that its text would not be the same twice")
    lines = []
    if bos_first:
        lines.append("{{ bos_token }}{# base.bos: prepend #}")
    if eos_token not in (None, stop_token) and re.search(r"\beos_token\b", template):
        lines.append(f"{{% set eos_token = {json.dumps(eos_token, ensure_ascii=False)} %}}")
    formats = [found[2] for found in CLOCK_READ.finditer(template)]
    if formats and FROZEN not in template:
        days = {text: FROZEN_DAY.strftime(text) for text in dict.fromkeys(formats)}
        written = f"{{{{ {json.dumps(days, ensure_ascii=False)}[format] }}}}"
        lines.append(f"{FROZEN}{written}{{% endmacro %}}")
    if len(formats) != len(CLOCK.findall(template)) and FROZEN not in template:
        raise UserError("it writes today's date in a form that it computes, so that its text cannot be frozen")
    return "".join(f"{line}\n" for line in [*lines, template])[:-1]  # Jinja drops the line break after a tag


def faults(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """What is wrong with the frozen template of `tokenizer`, whose eos token is the stop token: "it ..." each."""
    question, reply = _turn("user", QUESTION), _turn("assistant", REPLY)
    try:
        prompt, text = prompt_text(tokenizer, [question]), dialogue_text(tokenizer, [question, reply])
    except Exception as error:  # a UserError, or whatever the template's own calls raise
        yield f"it cannot render a question and its answer ({first_line(error)})"
        return
    place = text.rfind(REPLY)
    if QUESTION not in text or place < 0:
        yield f"it changes or leaves out the text of {'a user' if place >= 0 else 'an assistant'} turn"
        return
    if not text.startswith(prompt):
        yield (
            f"its generation prompt, which ends with {prompt[-20:]!r}, is not in the rendered dialogue, so that no "
            "answer in the data continues what a policy is asked to continue"
        )
        return
    head, tail = text[len(prompt) : place], text[place + len(REPLY) :]
    if head.strip() and prompt == dialogue_text(tokenizer, [question]):  # a space alone begins Llama 2's answers
        yield f"it has no generation prompt, so that a policy would have to write {head!r} itself"
    stop = str(tokenizer.eos_token)
    if stop not in tail:
        yield f"it ends an answer with {tail.strip() or 'nothing'!r} and not with the stop token {stop}"
    elif tail.count(stop) > 1:
        yield f"it writes the stop token {stop} {tail.count(stop)} times after an answer"
    answers = [[_turn("assistant", text)] for text in SHORT_REPLIES]
    if not any(side.continues_prompt for side in tokenise_sides(tokenizer, [question], answers)):
        yield f"its generation prompt ends with {prompt[-5:]!r}, which becomes one token with the first of every answer"
    if fault := BosRule(tokenizer).fault:
        yield fault.replace("the chat template", "it")


def notes(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What a user should know of a template without fault."""
    question, reply = _turn("user", QUESTION), _turn("assistant", REPLY)
    (side,) = tokenise_sides(tokenizer, [question], [[reply]])
    head = side.answer[: side.answer.rfind(REPLY)]
    thought = [question, _turn("assistant", THOUGHT)]
    found = {
        f"writes no BOS ({tokenizer.bos_token})": BosRule(tokenizer).writes_none,
        f"begins an answer with {head!r}": bool(head.strip()),
        "has no system role": not takes_system_turn(tokenizer),
        "cuts <think> from answers": _lost(tokenizer, thought),
        "cuts <think> from earlier answers": _lost(tokenizer, [*thought, question, reply]),
        "writes no earlier turns": _lost(tokenizer, [_turn("user", "731?"), reply, question, reply]),
        f"has its date fixed to {FROZEN_DAY}": FROZEN in str(tokenizer.chat_template),
    }
    if found["cuts <think> from answers"]:
        del found["cuts <think> from earlier answers"]
    return [note for note, true in found.items() if true]


def _lost(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> bool:
    try:
        return lost_turn(dialogue_text(tokenizer, messages), messages) is not None
    except UserError:
        return True


def _turn(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}
