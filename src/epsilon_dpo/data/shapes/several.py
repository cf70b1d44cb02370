"""Shapes whose rows hold n answers with scores, or one answer with a verdict of its own."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from epsilon_dpo.data.shapes.compared import ASKED, INPUT, STEMS, VERDICTS, asked
from epsilon_dpo.data.shapes.interface import (
    ANSWER,
    LABEL,
    LIST,
    MESSAGES,
    NUMBER,
    PROMPT,
    Choose,
    Dropped,
    Field,
    Half,
    Missing,
    Names,
    Pair,
    Read,
    Refused,
    Result,
    Shape,
)
from epsilon_dpo.data.shapes.paired import SYSTEM, sides
from epsilon_dpo.data.shapes.turns import after_system, answer, answered, messages, whole
from epsilon_dpo.data.shapes.values import describe, flag, gap, is_null, kind, list_of, number
from epsilon_dpo.pipeline.stage.files import Row

TEXTS = ("text", "answer", "response", "completion", "content", "output")
# fine-grained_score comes before overall_score: UltraFeedback's overall_score is 1 in some rows that were meant as 10.
SCORES = ("score", "reward", "rating", "pm_score", "fine-grained_score", "overall_score")
RANKS = ("rank",)  # 1 is the best
NUMBERS = range(16)  # of answers in a column each; a file with more is refused


def _numbered(stems: tuple[str, ...], kinds: frozenset[str]) -> tuple[Field, ...]:
    """The columns answer_0, answer_1, ... or their like, of which two are needed."""
    names = [tuple(f"{stem}_{n}" for stem in stems) for n in NUMBERS]
    return tuple(Field(own, kinds, tuple(also), optional=n > 1) for n, (own, *also) in enumerate(names))


ANSWERS = (
    replace(ASKED, kinds=PROMPT | {"object"}),  # the object is WebGPT's
    INPUT,
    *_numbered(STEMS, ANSWER),
)
BEYOND = tuple(f"{stem}_{len(NUMBERS)}" for stem in STEMS)  # the first column of answers that would not be read
# With a verdict it is another shape, as with answers that would not be read.
WITHOUT = ("chosen", "rejected", "verdict", *VERDICTS, *BEYOND)


def _read_scored(row: Row, choose: Choose) -> list[Result]:
    """Pairs of the answers by falling score: the best and the worst, or all that differ in score."""
    return _pairs(row, *_answers(row), choose)


def _pairs(row: Row, answers: list[Any], scores: list[float], choose: Choose) -> list[Result]:
    if len(answers) < 2:
        return [Dropped("one_answer", f"it has {len(answers)} answers, and a pair needs two")]
    before = asked(row)
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    found: list[Result] = []
    for better, worse in combinations(order, 2) if choose == "all" else [(order[0], order[-1])]:
        margin = gap(scores[better], scores[worse])
        if margin == 0.0:
            found.append(Dropped("tied", f"answers {better} and {worse} have the same score"))
            continue
        chosen, rejected = (
            whole(before, answer(answers[place], f"answer {place}", row["prompt"]), f"answer {place}")
            for place in (better, worse)
        )
        found.append(Pair(chosen, rejected, margin, f"{better}-{worse}"))
    return found


def _answers(row: Row) -> tuple[list[Any], list[float]]:
    """The answers, and their scores, higher is better; an answer that is no mapping has its score in a list beside."""
    answers = list_of(row["answers"], "answers", "answers")
    name = next((name for name in ("scores", "ranks") if row.get(name) is not None), "")
    if not name:
        name, scores = _own_scores(answers)
    elif isinstance(row[name], list) and len(row[name]) == len(answers):
        scores = [number(value, name) for value in row[name]]
    else:
        raise Refused(f"{name} is {describe(row[name])}, expected one number for each of {len(answers)} answers")
    texts = [_text_of(one, place) for place, one in enumerate(answers)]
    return texts, [-score for score in scores] if name in ("ranks", *RANKS) else scores


def _own_scores(answers: list[Any]) -> tuple[str, list[float]]:
    """By which key every answer is scored, and the scores: scales differ, and of ranks the lowest is the best."""
    found = [_own_score(one, place) for place, one in enumerate(answers)]
    for place, (key, _) in enumerate(found):
        if key != found[0][0]:
            raise Refused(f"answers 0 and {place} are scored by {found[0][0]} and by {key}, which do not compare")
    return found[0][0] if found else "", [score for _, score in found]


def _text_of(entry: Any, place: int) -> Any:
    if not isinstance(entry, dict) or {"role", "content"} <= set(entry):
        return entry
    key = next((key for key in TEXTS if key in entry), None)
    if key is None:
        raise Refused(f"answer {place} has the keys {', '.join(entry)}, expected one of {', '.join(TEXTS)}")
    return entry[key]


def _own_score(entry: Any, place: int) -> tuple[str, float]:
    if is_null(entry):
        raise Missing(f"answer {place} is null")
    if not isinstance(entry, dict):
        raise Refused(f"answer {place} has no score: add a column scores, a list of one number per answer")
    key = next((key for key in (*SCORES, *RANKS) if key in entry), None)
    if key is None:
        expected = ", ".join((*SCORES, *RANKS))
        raise Refused(f"answer {place} has the keys {', '.join(entry)}, expected one of {expected}")
    return key, number(entry[key], f"{key} of answer {place}")


def _read_scored_columns(row: Row, choose: Choose) -> list[Result]:
    """Answers and scores in a column each, as many of both."""
    scores = [row.get(f"score_{n}") for n in NUMBERS]
    while scores and scores[-1] in (None, ""):
        scores.pop()
    answers = _first(row, len(scores), "score")
    return _pairs(_asked_in_full(row), answers, [number(one, f"score_{n}") for n, one in enumerate(scores)], choose)


def _by_ranking(first_rows: Sequence[Row], names: Names) -> Read:
    """The reader of a file with a list `ranking` beside answers in a column each. Called `order`, it names them by
    number, from 0 or 1 on, the best first; called `ranks`, it ranks each, the lowest being the best. Under its own name
    it may be either: KoChatGPT's was written as an order and is read as ranks by its authors, so it is refused where
    the two differ, as where it can be no order: then it may be scores, of which the highest is the best.
    """
    called = names.of_shape["ranking"]
    mapped = ", ".join(f"{name}: {column}" for name, column in names.of_file.items() if name != "ranking")

    def read(row: Row, choose: Choose) -> list[Result]:
        given = [number(one, "ranking") for one in list_of(row["ranking"], "ranking", "numbers")]
        answers = _first(row, len(given), "rank")
        first = 1.0 if 1.0 in given and 0.0 not in given else 0.0
        from_0 = [one - first for one in given]
        is_order = sorted(from_0) == list(range(len(given)))
        ranks = [float(from_0.index(n)) for n in range(len(given))] if is_order and called != "ranks" else given
        shown, column = f"ranking is {describe(row['ranking'])}", names.of_file["ranking"]
        if called == "order" and not is_order:
            raise Refused(f"{shown}, expected each answer's number from 0 or from 1 on, once")
        if called == "ranking" and not is_order:
            raise Refused(
                f"{shown}, which does not name each answer by its number: say with fetch.columns if it is the rank of "
                f"each, 0 or 1 the best, {{{mapped}, ranks: {column}}}"
            )
        if called == "ranking" and ranks != from_0:
            raise Refused(
                f"{shown}, which may be the answers' numbers, best first, or the rank of each: say with fetch.columns "
                f"which, {{{mapped}, order: {column}}} (KoChatGPT was written so) or {{{mapped}, ranks: {column}}}"
            )
        return _pairs(_asked_in_full(row), answers, [-rank for rank in ranks], choose)

    return read


def _first(row: Row, count: int, of: str) -> list[Any]:
    """The answers in the first `count` columns, beyond which there must be none."""
    beyond = next((n for n in NUMBERS[count:] if row.get(f"response_{n}") not in (None, "", [])), None)
    if beyond is not None:
        raise Refused(f"response_{beyond} has no {of}")
    return [row.get(f"response_{n}") for n in range(count)]


def _asked_in_full(row: Row) -> Row:
    """The row with WebGPT's question, which stands among facts about it, as a text."""
    question = row["prompt"]
    if not isinstance(question, dict):
        return row
    if "full_text" not in question:
        raise Refused(f"prompt has the keys {', '.join(question)}, expected full_text")
    return {**row, "prompt": question["full_text"]}


def _read_unpaired(row: Row, choose: Choose) -> list[Result]:
    return [Half(asked(row), answer(row["completion"], "completion", row["prompt"]), flag(row["label"], "label"))]


def _without_classes(first_rows: Sequence[Row], names: Names) -> Read:
    """The reader of a file in which a number called label is no verdict: in ms-swift's rows of this form it is the
    class of a dialogue."""

    def read(row: Row, choose: Choose) -> list[Result]:
        label = row["label"]
        if kind(label) == "number" or (isinstance(label, str) and label.strip() in ("0", "1")):
            raise Refused(
                f"label is {describe(label)}, which may name a class; write true or false if it judges the answer"
            )
        return _read_labelled_dialogue(row, choose)

    return read if names.of_file["label"] == "label" else _read_labelled_dialogue


def _read_labelled_dialogue(row: Row, choose: Choose) -> list[Result]:
    dialogue, good = messages(row["dialogue"], "dialogue"), flag(row["label"], "label")
    before, said = answered(after_system(row, dialogue, "dialogue"), "dialogue")
    return [Half(before, said, good)]


SEVERAL = (
    Shape(
        "scored_answers",
        "{prompt, completions | responses | answers: [{text | answer, score | rank}]}, or texts and a list of scores: "
        "Nectar, UltraFeedback, StackExchange, on-policy sets",
        (
            ASKED,
            INPUT,
            Field("answers", LIST, ("completions", "responses", "candidates", "all_generated_responses")),
            Field("scores", frozenset({"numbers"}), ("rewards", "ratings", "all_rm_scores"), optional=True),
            Field("ranks", frozenset({"numbers"}), optional=True),
            SYSTEM,
        ),
        _read_scored,
        without=("chosen", "rejected"),
    ),
    Shape(
        "scored_columns",
        "{prompt, answer_0, score_0, answer_1, score_1, ...}: WebGPT, whose question is {full_text}",
        (*ANSWERS, *_numbered(("score", "reward", "rating"), NUMBER), SYSTEM),
        _read_scored_columns,
        without=(*WITHOUT, "ranking", "ranks"),
    ),
    Shape(
        "ranked_columns",
        "{prompt, completion_0, completion_1, ..., ranking: [2, 0, 1]}, or ranks: KoChatGPT",
        (*ANSWERS, Field("ranking", frozenset({"numbers"}), ("order", "ranks")), SYSTEM),
        _by_ranking([], Names({"ranking": "order"}, {"ranking": "order"})),
        without=WITHOUT,
        read_file=_by_ranking,
    ),
    Shape(
        "unpaired",
        "{prompt, completion, label: true | false}: TRL's unpaired format; a prompt with both labels makes pairs",
        (ASKED, INPUT, Field("completion", ANSWER, ("response",)), Field("label", LABEL), SYSTEM),
        _read_unpaired,
    ),
    Shape(
        "labelled_dialogues",
        "{messages: [message, ..., answer], label: true | false}, or conversations and kto_tag: KTO's rows of ms-swift "
        "and LLaMA-Factory; a prompt with both labels makes pairs",
        (
            Field("dialogue", MESSAGES, ("messages", "conversations")),
            Field("label", LABEL, ("kto_tag",)),
            SYSTEM,
        ),
        _read_labelled_dialogue,
        without=(
            "prompt",
            "instruction",
            "completion",
            "response",
            *(name for side in sides(ANSWER) for name in side.names),
        ),
        no_prompt_column=True,
        read_file=_without_classes,
    ),
)
