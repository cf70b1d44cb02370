"""Facts of a row, measured before the contract is checked: one flat record per pair, no nulls, plain Python values.

Great Expectations skips nulls, so a missing value would pass every expectation: absent things are 0, "" or False here.
"""

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from epsilon_dpo.data.facts.bos import BosRule
from epsilon_dpo.data.facts.survival import lost_turn
from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.data.tokens.tokenisation import Messages, Side, tokenise_sides
from epsilon_dpo.data.tokens.tokenizer import special_tokens_by_id
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row, dialogue_identity, prompt_identity

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "eval")
SIDES = ("chosen", "rejected")
# Score of chosen minus rejected, member of a mixture, how likely the label is the wrong way round.
BESIDE = ("margin", "source", "flip_rate")
QUOTED = 40  # characters of a text in a message
# Of Unicode: spaces, control characters, format characters such as one of no width, marks on another character. And
# what looks like nothing among letters and symbols: fillers of Hangul, the blank of Braille.
UNSEEN, BLANK = {"Zs", "Zl", "Zp", "Cc", "Cf", "Mn"}, "\u115f\u1160\u3164\uffa0\u2800"
NO_SYSTEM = "system-without-role"  # in `roles`: the system's turn, for which the chat template has no role


class _Turn(BaseModel, strict=True):
    role: str
    content: str


class _Row(BaseModel, strict=True):
    id: str
    chosen: list[_Turn]
    rejected: list[_Turn]
    margin: FiniteFloat | None = None
    source: str | None = None
    flip_rate: Annotated[FiniteFloat, Field(ge=0.0, lt=0.5)] | None = None


def check_form(rows: Iterable[Row], where: str, first: int) -> None:
    """Only the form, without which nothing can be measured: an id and two lists of turns.

    Args:
        where: the file, for messages.
        first: number of the first of `rows` in it.

    Raises:
        UserError: the first row that is something else.
    """
    for number, row in enumerate(rows, start=first):
        try:
            _Row.model_validate(row)
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(str(part) for part in problem["loc"])
            raise UserError(
                f"{where}, row {number}: {key or 'the row'} is not what it should be ({problem['msg']}); a row is "
                '{"id": text, "chosen": [{"role": text, "content": text}, ...], "rejected": [...]}.'
            ) from None


def digest(text: str) -> int:
    """64 bits of `text`, signed as SQLite's integers are: among a million texts two collide with probability 3e-8."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def prompt_key(turns: Messages) -> str:
    """What stands for the turns before the last: two rows with the same key have the same prompt."""
    return _as_text(prompt_identity(turns[:-1]))


def dialogue_key(turns: Messages) -> str:
    """What stands for the dialogue: rows with the same key may be one dialogue at several of its turns."""
    return _as_text(dialogue_identity(turns[:-1]))


def _as_text(turns: Messages) -> str:
    return json.dumps([[turn["role"], turn["content"]] for turn in turns], ensure_ascii=False)


def answer_text(turns: Messages) -> str:
    """The last turn's text; empty for a side without turns."""
    return turns[-1]["content"] if turns else ""


def prompts_of(row: Row) -> list[int]:
    """Digests of the prompts of both sides of a dialogue (they differ in a defective row)."""
    return [digest(prompt_key(row[side])) for side in SIDES]


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """The texts that this tokenizer reads as a special token wherever they occur."""
    return sorted(set(special_tokens_by_id(tokenizer).values()))


def dialogue_facts(
    row: Row,
    specials: list[str],
    other_prompts: Mapping[int, str],
    near: Callable[[Messages], tuple[str, float]] | None = None,
    takes_system: bool = False,
) -> Row:
    """A raw dialogue as counts and short texts.

    Args:
        row: a row of out/fetch/*.jsonl.
        specials: from `special_tokens`.
        other_prompts: prompts that this row must not have (the evaluation split's, for a training row): id of a row
            by the prompt's digest.
        near: `NearPrompts.near` over these; asked only if the row has none of them.
        takes_system: whether the chat template has a role for a system turn.
    """
    names = {} if takes_system else {"system": NO_SYSTEM}
    roles = [" ".join(names.get(turn["role"], turn["role"]) for turn in row[side]) for side in SIDES]
    texts = [turn["content"] for side in SIDES for turn in row[side]]
    chosen, rejected = (answer_text(row[side]) for side in SIDES)
    shared = next((other_prompts[prompt] for prompt in prompts_of(row) if prompt in other_prompts), "")
    near_prompt, near_share = near(row["chosen"][:-1]) if near and not shared else ("", 0.0)
    return {
        "id": row["id"],
        "shortest_turn_chars": min((len(text.strip()) if is_seen(text) else 0 for text in texts), default=0),
        "empty_turns": ", ".join(_empty_turns(row)),
        "same_answer": chosen == rejected,
        # To the character: of a kept row only the chosen side's prompt goes on.
        **{f"{side}_prompt": _as_text(row[side][:-1]) for side in SIDES},
        "roles": " / ".join(roles),
        "special_tokens_in_text": ", ".join(s for s in specials if any(s in text for text in texts)),
        "same_eval_prompt": shared,
        "near_eval_prompt": near_prompt,
        "near_eval_share": near_share,
        "chosen_chars": len(chosen),
    }


def _empty_turns(row: Row) -> list[str]:
    """Names of the turns without text."""
    return [
        f"{side} turn {number} ({turn['role']})"
        for side in SIDES
        for number, turn in enumerate(row[side], start=1)
        if not is_seen(turn["content"])
    ]


def is_seen(text: str) -> bool:
    """Whether there is anything to read: an answer of a space without width would teach to say nothing, at length."""
    return any(unicodedata.category(sign) not in UNSEEN and sign not in BLANK for sign in text)


def split_prompt(row: Row) -> Row:
    """A dialogue with its prompt made explicit: {"id", "prompt", "chosen": [answer], "rejected": [answer]}.

    With what the dataset says of the pair beside, where it does (BESIDE).
    """
    return {
        "id": row["id"],
        "prompt": row["chosen"][:-1],
        "chosen": row["chosen"][-1:],
        "rejected": row["rejected"][-1:],
        **{name: row[name] for name in BESIDE if name in row},
    }


def lost_text(pair: Row, chosen: Side, rejected: Side) -> str:
    """Which turn of a pair the template does not write as it is, and how that begins; empty if it writes all."""
    places = [(chosen.prompt, pair["prompt"], ""), (chosen.answer, pair["chosen"], "chosen")]
    for rendered, messages, side in [*places, (rejected.answer, pair["rejected"], "rejected")]:
        lost = lost_turn(rendered, messages)
        if lost is not None:
            where = f"the {side} answer" if side else f"turn {lost + 1} ({messages[lost]['role']})"
            return f"{where}, which begins {messages[lost]['content'].strip()[:QUOTED]!r}"
    return ""


def token_facts(
    pair: Row,
    tokenizer: "PreTrainedTokenizerBase",
    bos: BosRule,
    tokens: Tokens,
    other_prompts: Mapping[int, str] = {},
) -> Row:
    """A pair, prompt explicit, as the model will see it; lengths in tokens, answers with their stop token, not cut.

    Args:
        other_prompts: id by `prompt_digest` of rows whose prompt this one must not have.
    """
    chosen, rejected = tokenise_sides(tokenizer, pair["prompt"], [pair[side] for side in SIDES])
    # An over-long prompt fails one expectation, not two: its answers get the room that the longest allowed one leaves.
    room = tokens.max_length - min(chosen.prompt_length, tokens.max_prompt_length)
    answers = [chosen.completion_ids, rejected.completion_ids]
    stop = tokenizer.eos_token_id
    turns, system = len(pair["prompt"]) + 1, pair["prompt"][0]["role"] == "system"
    prompt = digest(str(chosen.ids[: chosen.prompt_length]))
    return {
        "id": pair["id"],
        "prompt_digest": prompt,
        "same_eval_prompt_ids": other_prompts.get(prompt, ""),
        "prompt_tokens": chosen.prompt_length,
        "chosen_tokens": len(answers[0]),
        "rejected_tokens": len(answers[1]),
        "lost_text": lost_text(pair, chosen, rejected),
        "bos_errors": max(bos.errors(side.ids, turns, system) for side in (chosen, rejected)),
        "bos_fault": bos.fault,
        "continues_prompt": chosen.continues_prompt and rejected.continues_prompt,
        "ends_with_stop": all(ids[-1:] == [stop] and ids.count(stop) == 1 for ids in answers),
        "same_answer_ids": answers[0][:room] == answers[1][:room],
        "cut_answers": sum(len(ids) > room for ids in answers),
    }
