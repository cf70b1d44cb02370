"""Shapes whose rows hold two answers and a verdict; what the verdict means depends on how the answers are named."""

from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

from epsilon_dpo.data.shapes.interface import (
    ANSWER,
    LABEL,
    MESSAGES,
    NUMBER,
    PROMPT,
    TEXT,
    Choose,
    Dropped,
    Field,
    Missing,
    Names,
    Pair,
    Read,
    Refused,
    Result,
    Shape,
)
from epsilon_dpo.data.shapes.paired import PROMPTS, SYSTEM
from epsilon_dpo.data.shapes.turns import after_system, answer, messages, prompt, whole
from epsilon_dpo.data.shapes.values import (
    describe,
    flag,
    gap,
    is_null,
    list_of,
    mapping,
    named,
    number,
    optional_number,
    spelt,
    text,
    written_texts,
)
from epsilon_dpo.pipeline.stage.files import Messages, Row

TIES = {"tie", "ties", "draw", "equal", "same", "both", "neither", "tie (bothbad)", "tie(bothbad)", "both_bad", "none"}
TIES |= {"tie (inconsistent)"}  # MT-Bench: a judge that changed its mind when the answers changed places
VERDICTS = ("better_response_id", "preferred", "preference", "label", "winner", "choice", "better", "annotator1")
OTHER_VERDICTS = tuple(Field(f"verdict_{n}", LABEL, (f"annotator{n}",), optional=True) for n in (2, 3))
STEMS = ("response", "answer", "completion", "output")  # of the columns of answers, before their letter or number
WINNERS = ("winner_model_a", "winner_model_b", "winner_tie")
ASKED = Field("prompt", PROMPT, (*PROMPTS, "instruction", "context", "history"))
INPUT = Field("input", TEXT, optional=True)
TIED = Dropped("tied", "the verdict is a tie")


def asked(row: Row) -> Messages:
    """The prompt's turns, with the system turn and Alpaca's `input` where the row has them."""
    turns, beside = prompt(row["prompt"], "prompt"), row.get("input")
    if beside:
        if not turns:
            raise Missing("prompt holds no message")
        last = {**turns[-1], "content": f"{turns[-1]['content']}\n{text(beside, 'input')}"}
        turns = [*turns[:-1], last]
    return after_system(row, turns, "prompt")


def _dialogues(row: Row, before: Messages, *names: str) -> list[Messages]:
    """The prompt `before` with the answer of each of these columns."""
    return [whole(before, answer(row[name], name), name) for name in names]


def preferred(row: Row, sides: list[Messages], lead: float, margin: float | None = None) -> list[Result]:
    """The pair by the sign of `lead` (first over second), its margin that of first minus second."""
    if lead == 0.0:
        return [TIED]
    first, second = sides
    if lead > 0.0:
        return [Pair(first, second, margin)]
    return [Pair(second, first, None if margin is None else -margin)]


def _spellings(end: str, other: str) -> set[str]:
    """How a verdict names the answer "x_end" of two; letters stand beside each other, too (JudgeBench, Arena-Hard)."""
    by_name = {f"{name}{join}{end}" for name in ("response", "answer") for join in ("_", "")}
    return {end, f"model_{end}", *by_name} | ({f"{end}>{other}", f"{end}>>{other}"} if end.isalpha() else set())


def _as_one_of_two(verdict: object) -> object:
    """AlpacaEval's number between 1 and 2, how much likelier a judge finds the second answer: which it is nearer to."""
    with suppress(ValueError, OverflowError):
        if isinstance(verdict, int | float | Decimal | str) and 1.0 < (found := float(verdict)) < 2.0:
            return "tie" if found == 1.5 else 1 if found < 1.5 else 2
    return verdict


def _reader(first: str, second: str, ties: set[str]) -> Read:
    """Two answers "x_0" and "x_1": the verdict names one by what stands after the last "_", with or without a name.

    Of up to three verdicts on a pair, by as many people, of whom some may have given none, the majority counts; without
    one it is a tie.
    """
    spellings = _spellings(first, second), _spellings(second, first)

    def read(row: Row, choose: Choose) -> list[Result]:
        given = [row[name] for name in ("verdict", "verdict_2", "verdict_3") if name in row]
        given = [verdict for verdict in given if not is_null(verdict) and verdict != ""] or given[:1]
        given = [_as_one_of_two(verdict) if second == "2" else verdict for verdict in given]
        leads = [named(verdict, spellings, ties, "the verdict") for verdict in given]
        lead = next((one for one in (1.0, -1.0) if leads.count(one) > len(leads) / 2), 0.0)
        return preferred(row, _dialogues(row, asked(row), f"response_{first}", f"response_{second}"), lead)

    return read


def _where_0_is_a_tie(first_rows: Sequence[Row], names: Names) -> Read:
    """The reader of a file with "x_1" and "x_2", where a verdict of 0 is a tie, or the first of two counted from 0.

    It is a tie in the columns annotator1 to 3 (PandaLM), and where the first rows name an answer by its name, or by 2
    in the column preference (AlpacaEval); elsewhere it is refused, because half of the pairs would be swapped and half
    lost. In another column a 2 tells nothing: in Auto-J's 0, 1 and 2 it is the tie.
    """
    read = _reader("1", "2", TIES | {"0"})
    by_name = (_spellings("1", "2") | _spellings("2", "1")) - {"1", "2"}
    called = {names.of_shape["verdict"], names.of_file["verdict"]}
    sure = by_name | ({"2"} if "preference" in called else set())
    if any(name.startswith("annotator") for name in called) or any(spelt(row["verdict"]) in sure for row in first_rows):
        return read

    def mapped(**others: str) -> str:
        return ", ".join(f"{others.get(name, name)}: {column}" for name, column in names.of_file.items())

    def read_without_0(row: Row, choose: Choose) -> list[Result]:
        if spelt(row["verdict"]) == "0":
            raise Refused(
                "verdict is 0, which may be a tie or name the first answer: say with fetch.columns that it is a tie, "
                f"{{{mapped(verdict='annotator1')}}}, or that 0 and 1 name the answers, "
                f"{{{mapped(response_1='response_0', response_2='response_1')}}}"
            )
        return read(row, choose)

    return read_without_0


def _where_2_is_a_tie(first_rows: Sequence[Row], names: Names) -> Read:
    """The reader of a file whose answers are counted from 0. A 2 is Auto-J's tie where fetch.columns says that they
    are, and the first rows have a 0; without one they may be counted from 1, and a 2 is refused."""
    said = names.of_shape != names.of_file and any(spelt(row["verdict"]) == "0" for row in first_rows)
    return _reader("0", "1", TIES | {"2"} if said else TIES)


def _two(first: str, second: str, glued: bool = False) -> tuple[Field, ...]:
    """The columns response_0, response_1 and their like, and the verdict on them."""
    joins = ("_", "", " ") if glued else ("_",)
    ends = [dict.fromkeys((end, end.upper())) for end in (first, second)]
    also = [tuple(f"{stem}{join}{end}" for stem in STEMS for join in joins for end in both) for both in ends]
    answers = [Field(f"response_{end}", ANSWER, names[1:]) for end, names in zip((first, second), also, strict=True)]
    return (ASKED, INPUT, *answers, Field("verdict", LABEL, VERDICTS), *OTHER_VERDICTS, SYSTEM)


def _by_winner_columns(first_rows: Sequence[Row], names: Names) -> Read:
    """The reader of a file with a column per outcome, of which one is true. Each text may be a list, one an exchange,
    in csv files (LMSYS's) as JSON: where most first prompts are such, every row must be."""
    prompts = [row["prompt"] for row in first_rows if isinstance(row["prompt"], str)]
    written = sum(written_texts(one) is not None for one in prompts) > len(prompts) / 2

    def read(row: Row, choose: Choose) -> list[Result]:
        won = [flag(row[name], name) for name in WINNERS]
        if won.count(True) != 1:
            raise Refused(f"{', '.join(WINNERS)} are {won}, expected that one of them is true")
        answers = ("response_a", "response_b")
        if written or isinstance(row["prompt"], list):
            sides = [_exchanges(_texts(row, "prompt"), _texts(row, name), name) for name in answers]
        else:
            sides = _dialogues(row, asked(row), *answers)
        return preferred(row, sides, (1.0, -1.0, 0.0)[won.index(True)])

    return read


def _texts(row: Row, name: str) -> list[Any]:
    """A list of texts, or what its notation in JSON says."""
    found = written_texts(row[name]) if isinstance(row[name], str) else None
    return list_of(row[name] if found is None else found, name, "texts, one an exchange")


def _exchanges(questions: list[Any], answers: list[Any], name: str) -> Messages:
    """The dialogue of one side; `name` is the column of `answers`."""
    if not questions:
        raise Missing("prompt holds no text")
    if len(answers) != len(questions):
        raise Refused(f"{name} holds {len(answers)} texts, expected {len(questions)}, one for each of prompt")
    dialogue = []
    for question, said in zip(questions, answers, strict=True):
        dialogue.append({"role": "user", "content": text(question, "a text of prompt")})
        dialogue.append({"role": "assistant", "content": text(said, f"a text of {name}")})
    return dialogue


def _read_signed(row: Row, choose: Choose) -> list[Result]:
    """-3 ... 3: the first answer is better where it is negative, by as much."""
    lead = -number(row["overall_preference"], "overall_preference")
    return preferred(row, _dialogues(row, asked(row), "response_1", "response_2"), lead, lead)


def _read_shp(row: Row, choose: Choose) -> list[Result]:
    """`labels` is 1 where A is preferred; the scores are votes."""
    lead = named(row["labels"], ({"1"}, {"0"}), set(), "labels")
    sides = _dialogues(row, prompt(row["history"], "history"), "human_ref_A", "human_ref_B")
    scores = [optional_number(row, name) for name in ("score_A", "score_B")]
    margin = None if scores[0] is None or scores[1] is None else gap(scores[0], scores[1])
    return preferred(row, sides, lead, margin)


def _read_arena(row: Row, choose: Choose) -> list[Result]:
    """MT-Bench's rows hold both exchanges, also where the verdict is on the first: `turn` says which."""
    lead = named(row["winner"], ({"model_a", "a"}, {"model_b", "b"}), TIES, "winner")
    sides = [messages(row[name], name) for name in ("conversation_a", "conversation_b")]
    try:
        judged = optional_number(row, "turn")
    except Refused as error:
        raise Refused(f"{error}, of the exchange that is judged; leave it out with fetch.columns") from None
    if judged is not None and judged < 1:
        raise Refused(f"turn is {describe(row['turn'])}, expected the number of the exchange that is judged, from 1 on")
    if judged is not None:
        sides = [_up_to(dialogue, int(judged)) for dialogue in sides]
    return preferred(row, sides, lead)


def _up_to(dialogue: Messages, exchanges: int) -> Messages:
    system = bool(dialogue) and dialogue[0]["role"] == "system"
    return dialogue[: 2 * exchanges + system]


def _read_summaries(row: Row, choose: Choose) -> list[Result]:
    lead = named(row["choice"], ({"0"}, {"1"}), set(), "choice")
    summaries = list_of(row["summaries"], "summaries", '{"text": ...}')
    if any(is_null(one) for one in summaries):
        raise Missing("a summary is null")
    if len(summaries) != 2 or not all(isinstance(one, dict) for one in summaries):
        raise Refused(f'summaries is {describe(summaries)}, expected two of {{"text": ...}}')
    before = [{"role": "user", "content": _to_summarise(mapping(row["info"], "info"))}]
    return preferred(row, [before + answer(one.get("text"), "text of summaries") for one in summaries], lead)


def _to_summarise(info: dict[str, Any]) -> str:
    """SUBREDDIT, TITLE, POST (or ARTICLE) and "TL;DR:", those that the row has, as in TRL's tldr sets."""
    parts = []
    if info.get("subreddit"):
        parts.append(f"SUBREDDIT: r/{text(info['subreddit'], 'info.subreddit')}")
    if info.get("title"):
        parts.append(f"TITLE: {text(info['title'], 'info.title')}")
    body = "post" if info.get("post") is not None else "article"
    return "\n\n".join([*parts, f"{body.upper()}: {text(info.get(body), f'info.{body}')}", "TL;DR:"])


COMPARED = (
    Shape(
        "two_answers_from_0",
        "{prompt, response_0, response_1, better_response_id | label | preference: 0 | 1 | tie}: PKU-SafeRLHF",
        _two("0", "1"),
        _reader("0", "1", TIES),
        read_file=_where_2_is_a_tie,
    ),
    Shape(
        "two_answers_from_1",
        "{prompt, response_1, response_2, label: 1 | 2 | tie; or annotator1 to 3, by majority}: PandaLM, AlpacaEval",
        _two("1", "2", glued=True),
        _reader("1", "2", TIES | {"0"}),
        without=("overall_preference", "preference_strength"),
        read_file=_where_0_is_a_tie,
    ),
    Shape(
        "two_answers_lettered",
        "{prompt, response_a, response_b, winner | label: a | b | tie (or model_a, response_a, A>B, ...)}: JudgeBench",
        _two("a", "b"),
        _reader("a", "b", TIES | {"a=b", "a~b"}),
    ),
    Shape(
        "winner_columns",
        "{prompt, response_a, response_b, winner_model_a, winner_model_b, winner_tie: 1 in one of them}, texts, "
        "or lists of one text an exchange: LMSYS's csv",
        (
            *(Field(name, TEXT | {"texts"}) for name in ("prompt", "response_a", "response_b")),
            *(Field(name, LABEL) for name in WINNERS),
        ),
        _by_winner_columns([], Names({}, {})),
        read_file=_by_winner_columns,
    ),
    Shape(
        "signed_preference",
        "{context, response1, response2, overall_preference: -3 ... 3, negative: the first is better}: HelpSteer",
        (
            ASKED,
            Field("response_1", ANSWER, ("response1",)),
            Field("response_2", ANSWER, ("response2",)),
            Field("overall_preference", NUMBER, ("preference_strength",)),
            SYSTEM,
        ),
        _read_signed,
    ),
    Shape(
        "shp",
        "{history, human_ref_A, human_ref_B, labels: 1 for A | 0 for B, score_A, score_B}: SHP",
        (
            *(Field(name, TEXT) for name in ("history", "human_ref_A", "human_ref_B")),
            Field("labels", LABEL),
            *(Field(name, NUMBER, optional=True) for name in ("score_A", "score_B")),
        ),
        _read_shp,
    ),
    Shape(
        "arena",
        "{conversation_a: [message, ...], conversation_b: [message, ...], winner: model_a | model_b | tie}: Arena",
        (
            *(Field(name, MESSAGES) for name in ("conversation_a", "conversation_b")),
            Field("winner", LABEL),
            Field("turn", NUMBER, optional=True),
        ),
        _read_arena,
    ),
    Shape(
        "summaries",
        "{info: {post, title, subreddit}, summaries: [{text}, {text}], choice: 0 | 1}: summarize_from_feedback",
        (
            Field("info", frozenset({"object"})),
            Field("summaries", frozenset({"objects"})),
            Field("choice", LABEL),
        ),
        _read_summaries,
    ),
)
