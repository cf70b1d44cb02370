"""A preference pair as token ids: the tokenizer's own chat template, no token added, the stop token at the end.

A policy samples after the ids of the prompt, so training must score ids that continue exactly these. Prompt and answer
are therefore rendered together, tokenised *jointly*, and split where the prompt's own ids end. Tokenising the answer
alone would make the prefix hold by construction, but with wrong ids for tokenizers that put a space before the first
word of a text (Llama 2, Mistral). The joint ids are what a policy would write; where a merge across the border breaks
the prefix (an answer that starts with a line break, after a template that ends with one), the pair is refused.

The answer ends with the stop token (`tokenizer.eos_token`, which stage `base` sets to the template's end of turn). What
the template writes after it (Gemma's line break) is cut, because no policy ever generates it.

Nothing here imports transformers: any tokenizer object with its interface will do.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Side:
    """One answer after its prompt.

    Attributes:
        ids: ids of prompt and answer, up to and including the stop token; not cut.
        prompt_length: number of ids of the prompt alone.
        continues_prompt: whether `ids` begins with the prompt's own ids.
        prompt: the prompt's text as the template writes it.
        answer: the rest of the text that `ids` are of.
    """

    ids: list[int]
    prompt_length: int
    continues_prompt: bool
    prompt: str
    answer: str

    @property
    def completion_ids(self) -> list[int]:
        """What is scored; meaningful only if `continues_prompt`."""
        return self.ids[self.prompt_length :]


def prompt_text(tokenizer: "PreTrainedTokenizerBase", messages: Messages) -> str:
    """`messages` in the tokenizer's chat template, up to where the assistant's answer begins."""
    return _render(tokenizer, messages, add_generation_prompt=True)


def dialogue_text(tokenizer: "PreTrainedTokenizerBase", messages: Messages) -> str:
    """A whole dialogue in the tokenizer's chat template, with what it writes after the last answer."""
    return _render(tokenizer, messages, add_generation_prompt=False)


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", messages: Messages) -> list[int]:
    """The ids after which a policy samples: the template's BOS and no other, never cut."""
    return _ids(tokenizer, [prompt_text(tokenizer, messages)])[0]


def tokenise_sides(tokenizer: "PreTrainedTokenizerBase", prompt: Messages, answers: list[Messages]) -> list[Side]:
    """Each of `answers` (one assistant message each) after `prompt`, not judged: stage `validate` does that."""
    before = prompt_text(tokenizer, prompt)
    texts = [_up_to_stop(tokenizer, _render(tokenizer, prompt + answer, False), len(before)) for answer in answers]
    start, *sides = _ids(tokenizer, [before, *texts])
    return [
        Side(ids, len(start), text.startswith(before) and ids[: len(start)] == start, before, text[len(before) :])
        for text, ids in zip(texts, sides, strict=True)
    ]


def tokenise_pair(tokenizer: "PreTrainedTokenizerBase", pair: dict[str, Any], tokens: Tokens) -> dict[str, list[int]]:
    """A row of out/validate/*.jsonl as ids.

    Args:
        pair: `prompt` (messages), `chosen` and `rejected` (one assistant message each), `id`.
        tokens: prompt and answer together hold at most `max_length` ids; the answer is cut on the right.

    Returns:
        `prompt_ids`, `chosen_ids`, `rejected_ids`; an answer's ids end with the stop token unless cut.

    Raises:
        UserError: the prompt exceeds `max_prompt_length`, or an answer's ids do not continue the prompt's or do not end
            with the stop token: stage `validate` drops such rows or stops at them.
    """
    chosen, rejected = tokenise_sides(tokenizer, pair["prompt"], [pair["chosen"], pair["rejected"]])
    _refuse(chosen, tokenizer, f"The chosen side of row {pair.get('id')}", tokens)
    _refuse(rejected, tokenizer, f"The rejected side of row {pair.get('id')}", tokens)
    room = tokens.max_length - chosen.prompt_length
    return {
        "prompt_ids": chosen.ids[: chosen.prompt_length],
        "chosen_ids": chosen.completion_ids[:room],
        "rejected_ids": rejected.completion_ids[:room],
    }


def tokenise_chosen(
    tokenizer: "PreTrainedTokenizerBase", pair: dict[str, Any], tokens: Tokens
) -> tuple[list[int], list[int]]:
    """`prompt_ids` and `chosen_ids` of `tokenise_pair`, without a look at the rejected answer.

    Raises:
        UserError: as `tokenise_pair`, of the chosen side.
    """
    (chosen,) = tokenise_sides(tokenizer, pair["prompt"], [pair["chosen"]])
    _refuse(chosen, tokenizer, f"The chosen side of row {pair.get('id')}", tokens)
    return chosen.ids[: chosen.prompt_length], chosen.ids[chosen.prompt_length : tokens.max_length]


def _refuse(side: Side, tokenizer: "PreTrainedTokenizerBase", where: str, tokens: Tokens) -> None:
    """The checks that make `tokenise_pair` safe by itself."""
    if side.prompt_length > tokens.max_prompt_length:
        raise UserError(
            f"{where}: its prompt has {side.prompt_length} tokens, more than tokens.max_prompt_length = "
            f"{tokens.max_prompt_length}, and prompts are never cut; raise the limit or drop the row."
        )
    if not side.continues_prompt:
        raise UserError(
            f"{where}: the ids of prompt and answer do not begin with the ids of the prompt, so a policy could never "
            "sample this answer; drop the row (validate.on_failure.prompt_ids_are_prefix) or fix the chat template."
        )
    if side.ids[-1] != tokenizer.eos_token_id:
        raise UserError(
            f"{where}: the chat template does not end an answer with the tokenizer's eos token {tokenizer.eos_token}; "
            "set eos_token to the token that ends a turn."
        )


def _up_to_stop(tokenizer: "PreTrainedTokenizerBase", text: str, start: int) -> str:
    """`text` up to its last stop token after `start`, or all of it if there is none."""
    stop = str(tokenizer.eos_token)
    end = text.rfind(stop, min(start, len(text)))
    return text if end < 0 else text[: end + len(stop)]


def _ids(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[list[int]]:
    return list(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])


def _render(tokenizer: "PreTrainedTokenizerBase", messages: Messages, add_generation_prompt: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, tokenize=False))
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:  # a template is a program
        roles = ", ".join(message["role"] for message in messages)
        reason = str(error).rstrip(".")
        raise UserError(f"The tokenizer's chat template refuses a dialogue with the roles {roles}: {reason}.") from None
