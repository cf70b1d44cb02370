"""Whether a chat template writes all that a dialogue says.

A template may cut: reasoning blocks, earlier turns, a system turn. What it cuts is not trained, and nobody is told. So
every turn's text must stand in the rendered text. White space is left out of the comparison, because templates trim the
ends of a turn (Gemma, Llama 3) or lay out its parts anew (Qwen 3 around </think>).
"""

from typing import TYPE_CHECKING

from epsilon_dpo.data.tokens.tokenisation import prompt_text
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def lost_turn(rendered: str, messages: Messages) -> int | None:
    """The index of the first of `messages` whose text is not in `rendered`; None: all are there.

    The turns must stand in their order, but for the system's, which some templates put into the last user turn.
    """
    text, place = _without_space(rendered), 0
    for number, message in enumerate(messages):
        wanted = _without_space(message["content"])
        from_start = message["role"] == "system"
        found = text.find(wanted, 0 if from_start else place)
        if found < 0:
            return number
        if not from_start:
            place = found + len(wanted)
    return None


def takes_system_turn(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the template writes a system turn, neither refusing it (Gemma 2) nor leaving it out."""
    probe = [{"role": "system", "content": "Answer as a seal 7351."}, {"role": "user", "content": "Who?"}]
    try:
        return lost_turn(prompt_text(tokenizer, probe), probe) is None
    except UserError:
        return False


def _without_space(text: str) -> str:
    return "".join(text.split())
