"""Shapes whose rows say which answer is chosen and which is rejected."""

from epsilon_dpo.data.shapes.interface import (
    ANSWER,
    MESSAGES,
    NULL,
    NUMBER,
    PLAIN,
    TEXT,
    TRANSCRIPT,
    Choose,
    Dropped,
    Field,
    Missing,
    Pair,
    Refused,
    Result,
    Shape,
)
from epsilon_dpo.data.shapes.turns import (
    after_system,
    answer,
    answered,
    first_with_value,
    messages,
    one_turn,
    prompt,
    transcript,
    whole,
)
from epsilon_dpo.data.shapes.values import gap, is_null, kind, list_of, mapping, optional_number, text
from epsilon_dpo.pipeline.stage.files import Messages, Row

SIDES = ("chosen", "rejected")
PROMPTS = ("question", "query")
RATED = ("{}_score", "{}_rating", "{}-rating", "rating_{}", "{}_avg_rating", "{}-avg-rating")
SYSTEM = Field("system", TEXT, ("system_prompt",), optional=True)
SCORES = (
    *(Field(f"score_{side}", NUMBER, tuple(name.format(side) for name in RATED), optional=True) for side in SIDES),
    Field("margin", NUMBER, optional=True),
)
NO_PROMPT = ("prompt", "instruction", "conversations", *PROMPTS)


CHOSEN, REJECTED = (
    (f"{side}_response", f"{side}-response", response)  # response_j and response_k are StackExchange's
    for side, response in zip(SIDES, ("response_j", "response_k"), strict=True)
)
PARALLEL = "parallel_tool_calls"  # an option of OpenAI's requests, which says nothing where no tool is


def sides(kinds: frozenset[str], also: tuple[str, ...] = ()) -> tuple[Field, Field]:
    """The two columns, by their usual names.

    Args:
        also: names of one shape's, with {} for the side.
    """
    chosen, rejected = (tuple(name.format(side) for name in also) for side in SIDES)
    return (
        Field("chosen", kinds, (*CHOSEN, *chosen)),
        Field("rejected", kinds, (*REJECTED, *rejected)),
    )


def scored(row: Row, chosen: Messages, rejected: Messages) -> list[Result]:
    """The pair with its margin, where the row has scores; dropped if they are equal."""
    margin = optional_number(row, "margin")
    if margin is None:
        scores = [optional_number(row, f"score_{side}") for side in SIDES]
        margin = None if scores[0] is None or scores[1] is None else gap(scores[0], scores[1])
    if margin == 0.0:
        return [Dropped("tied", "both answers have the same score")]
    return [Pair(chosen, rejected, margin)]


def instruction(row: Row) -> Messages:
    """Instruction, newline, input: how Alpaca's rows become a prompt."""
    turns, beside = prompt(row["instruction"], "instruction"), row.get("input")
    if not turns:
        raise Missing("instruction holds no message")
    if beside:
        turns[-1]["content"] += f"\n{text(beside, 'input')}"
    return turns


def _beside(row: Row, before: Messages) -> list[Result]:
    """Answers to a prompt that stands in columns of its own."""
    asked = row.get("prompt", row.get("instruction"))
    chosen, rejected = (whole(before, answer(row[side], side, asked), side) for side in SIDES)
    return scored(row, chosen, rejected)


def _read_explicit(row: Row, choose: Choose) -> list[Result]:
    return _beside(row, after_system(row, prompt(row["prompt"], "prompt"), "prompt"))


def _read_sharegpt(row: Row, choose: Choose) -> list[Result]:
    return _beside(row, after_system(row, messages(row["conversations"], "conversations"), "conversations"))


def _read_alpaca(row: Row, choose: Choose) -> list[Result]:
    turns: Messages = []
    history = row.get("history")
    for exchange in [] if is_null(history) or history == "" else list_of(history, "history", "[question, answer]"):
        if is_null(exchange):
            raise Missing("an exchange of history is null")
        if not isinstance(exchange, list) or len(exchange) != 2:
            raise Refused("history is no list of [question, answer]")
        for role, content in zip(("user", "assistant"), exchange, strict=True):
            turns.append({"role": role, "content": text(content, "history")})
    asked = instruction(row)
    if turns and len(asked) > 1:
        raise Refused("instruction holds turns of its own, and so does history; put all of them into one")
    return _beside(row, after_system(row, [*turns, *asked], "instruction"))


def _read_transcripts(row: Row, choose: Choose) -> list[Result]:
    return scored(row, *(transcript(row[side], side) for side in SIDES))


def _read_common_beginning(row: Row, choose: Choose) -> list[Result]:
    chosen, rejected = (text(row[side], side) for side in SIDES)
    if kind(chosen) == kind(rejected) == "transcript":
        raise Refused(
            "chosen begins as transcripts do, and most of the first rows do not; keep these in a file of their own"
        )
    one_turn(chosen, "chosen")  # whose beginning would be the user's turn
    length = border(chosen, rejected)
    if not chosen[:length].strip():
        return [Dropped("no_common_beginning", "chosen and rejected do not begin alike, so there is no prompt")]
    before = {"role": "user", "content": chosen[:length].strip()}
    answers = ({"role": "assistant", "content": side[length:].strip()} for side in (chosen, rejected))
    return scored(row, *([before, one] for one in answers))


def border(first: str, second: str) -> int:
    """Where the prompt of two texts ends that begin alike: after the last line break in common, else the last space.

    TRL's `extract_prompt` has the last space only, and takes what both answers begin with for a part of the prompt.
    """
    different = (place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    common = first[: next(different, min(len(first), len(second)))]
    return common.rfind("\n") + 1 or common.rfind(" ") + 1


def _read_dialogues(row: Row, choose: Choose) -> list[Result]:
    return scored(row, *(after_system(row, messages(row[side], side), side) for side in SIDES))


def _read_beside_dialogues(row: Row, choose: Choose) -> list[Result]:
    """`prompt` is not read where a side holds a user turn: the dialogue has it, in its place."""
    turns = {side: messages(row[side], side) for side in SIDES}
    if all(any(turn["role"] == "user" for turn in side) for side in turns.values()):
        return scored(row, *(after_system(row, turns[side], side) for side in SIDES))
    return _read_explicit(row, choose)


def _read_with_rejected(row: Row, choose: Choose) -> list[Result]:
    before, chosen = answered(after_system(row, messages(row["dialogue"], "dialogue"), "dialogue"), "dialogue")
    return scored(row, before + chosen, whole(before, answer(row["rejected"], "rejected"), "rejected"))


def _read_openai(row: Row, choose: Choose) -> list[Result]:
    asked = mapping(row["input"], "input")
    other = first_with_value(asked, tuple(key for key in asked if key not in ("messages", PARALLEL)))
    if other:
        raise Refused(f"input has {other}: not supported, only messages are; remove such rows")
    return _beside(row, messages(asked.get("messages"), "messages of input"))


def _fields(*own: Field, answers: frozenset[str], system: bool = True, also: tuple[str, ...] = ()) -> tuple[Field, ...]:
    return (*own, *sides(answers, also), *((SYSTEM,) if system else ()), *SCORES)


PAIRED = (
    Shape(
        "explicit_text",
        "{prompt, chosen, rejected}, texts: TRL's standard format, most private files",
        _fields(Field("prompt", TEXT, PROMPTS), answers=PLAIN),
        _read_explicit,
        without=("system", "system_prompt"),  # read where no first row has it
    ),
    Shape(
        "system_beside",
        "{system, question, chosen, rejected}, texts: Intel/orca_dpo_pairs",
        (Field("system", TEXT | NULL, ("system_prompt",)), Field("prompt", TEXT, PROMPTS), *sides(PLAIN), *SCORES),
        _read_explicit,
    ),
    Shape(
        "transcripts",
        "{chosen, rejected}, each '\\n\\nHuman: ...\\n\\nAssistant: ...' over all turns: Anthropic-HH",
        _fields(answers=TRANSCRIPT, system=False),
        _read_transcripts,
        without=NO_PROMPT,
        no_prompt_column=True,
    ),
    Shape(
        "implicit_text",
        "{chosen, rejected}, texts with a common beginning, which is the prompt: TRL",
        _fields(answers=PLAIN, system=False),
        _read_common_beginning,
        without=(*NO_PROMPT, "system", "system_prompt"),
        no_prompt_column=True,
    ),
    Shape(
        "explicit_messages",
        "{prompt: [message], chosen: [message], rejected: [message]}: TRL's conversational format",
        _fields(Field("prompt", MESSAGES), answers=ANSWER),
        _read_explicit,
    ),
    Shape(
        "implicit_messages",
        "{chosen: [message, ...], rejected: [message, ...]}, entire dialogues: TRL, Skywork, Tülu 3, torchtune",
        _fields(answers=MESSAGES, also=("{}_messages", "{}_conversations")),  # LLaMA-Factory's v1 files, torchtune
        _read_dialogues,
        without=NO_PROMPT,
        no_prompt_column=True,
    ),
    Shape(
        "ultrafeedback_binarized",
        "{prompt: text, chosen: [message], rejected: [message], score_chosen, score_rejected}: UltraFeedback binarized",
        (
            Field("prompt", TEXT, ("instruction", *PROMPTS)),
            *sides(MESSAGES),
            SYSTEM,
            *(Field(score.name, NUMBER | NULL, score.also) for score in SCORES[:2]),
            *SCORES[2:],
        ),
        _read_beside_dialogues,
    ),
    Shape(
        "prompt_beside_dialogues",
        "{prompt: text, chosen: [message, ...], rejected: [message, ...]}: SimPO's sets, Orpo's mixes",
        _fields(Field("prompt", TEXT, ("instruction", *PROMPTS)), answers=MESSAGES),
        _read_beside_dialogues,
        without=tuple(name for score in SCORES[:2] for name in score.names),
    ),
    Shape(
        "sharegpt",
        "{conversations: [{from, value}], chosen: {from, value}, rejected: {from, value}}: LLaMA-Factory; "
        "ColossalChat, whose conversations are context",
        _fields(Field("conversations", MESSAGES, ("conversation", "context")), answers=ANSWER),
        _read_sharegpt,
        without=("prompt", "instruction"),
    ),
    Shape(
        "alpaca",
        "{instruction, input, chosen, rejected, system, history}, texts, history [[question, answer]]: LLaMA-Factory",
        _fields(
            Field("instruction", TEXT),
            Field("input", TEXT, optional=True),
            Field("history", frozenset({"list"}), optional=True),
            answers=PLAIN,
        ),
        _read_alpaca,
        without=("prompt", "conversations"),
    ),
    Shape(
        "query_with_rejected",
        "{query, response, rejected_response, system, history}, texts, history [[question, answer]]: ms-swift 1 and 2",
        (
            Field("instruction", TEXT, ("query",)),
            Field("chosen", PLAIN, ("response",)),
            Field("rejected", PLAIN, ("rejected_response",)),
            SYSTEM,
            Field("history", frozenset({"list"}), optional=True),
            *SCORES,
        ),
        _read_alpaca,
        without=("instruction", "prompt", "question", "conversations", "messages", "chosen", "rejected"),
    ),
    Shape(
        "dialogue_with_rejected",
        "{messages: [message, ..., chosen answer], rejected_response | rejected_messages}: ms-swift",
        (
            Field("dialogue", MESSAGES, ("messages", "conversations")),
            Field("rejected", ANSWER, (*REJECTED, "rejected_messages", "rejected_message")),
            SYSTEM,
            *SCORES,
        ),
        _read_with_rejected,
        without=("prompt", "instruction", "chosen", *CHOSEN, "chosen_messages"),
        no_prompt_column=True,
    ),
    Shape(
        "openai",
        "{input: {messages: [message]}, preferred_output: [message], non_preferred_output: [message]}: OpenAI, Azure, "
        "Fireworks, Together",
        (
            Field("input", frozenset({"object"})),
            Field("chosen", ANSWER, ("preferred_output",)),
            Field("rejected", ANSWER, ("non_preferred_output",)),
            *SCORES,
        ),
        _read_openai,
        without=(*NO_PROMPT, "messages"),
    ),
)
