"""Facts of a dataset that no expectation covers: lengths, their bias, scripts, margins, answers.

Everything is counted chunk by chunk and does not grow with the rows, except the margins: 8 bytes each while they are
read.
"""

import re
import unicodedata
from collections import Counter
from functools import cache
from typing import Any

import numpy as np

from epsilon_dpo.data.contract.relations import Relations, SharedAnswer, place
from epsilon_dpo.data.facts.rows import SIDES, SPLITS, Row, answer_text, digest

LENGTHS = ("prompt_tokens", "chosen_tokens", "rejected_tokens")
POINTS = {"min": 0, "p10": 10, "median": 50, "p90": 90, "p99": 99, "max": 100}
EXAMPLES = 5  # answers per list
SHOWN_CHARS = 120  # of an answer


class Lengths:
    """Lengths of the kept rows in tokens, and which answer is the longer one."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Counter[int]] = {(split, n): Counter() for split in SPLITS for n in LENGTHS}
        self._pairs: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}  # prompt and answer together
        self._cut: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}
        self._longer: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}

    def add(self, split: str, facts: list[Row]) -> None:
        """Rows of `token_facts`."""
        for name in LENGTHS:
            self._counts[split, name].update(row[name] for row in facts)
        for answer in LENGTHS[1:]:
            self._pairs[split].update(row["prompt_tokens"] + row[answer] for row in facts)
        self._cut[split].update(row["cut_answers"] for row in facts)
        for row in facts:
            difference = row["chosen_tokens"] - row["rejected_tokens"]
            self._longer[split]["same" if difference == 0 else "chosen" if difference > 0 else "rejected"] += 1

    def kept(self, split: str) -> int:
        return self._cut[split].total()

    def cut_answers(self, split: str) -> int:
        return sum(cut * rows for cut, rows in self._cut[split].items())

    def truncated_share(self, split: str) -> np.ndarray:
        """Of each kept row the share of its two answers that is cut, sorted, float64 [kept]."""
        return _values(self._cut[split]) / 2

    def fitting(self, split: str, share: float) -> int:
        """The smallest tokens.max_length that cuts at most this share of the answers; 0 if there is none."""
        lengths = _values(self._pairs[split])
        if not len(lengths):
            return 0
        cut = int(share * len(lengths))
        cut += (cut + 1) / len(lengths) <= share  # 0.29 * 100 is a little less than 29
        return int(lengths[max(len(lengths) - 1 - cut, 0)])

    def spread(self, split: str) -> dict[str, dict[str, float]]:
        return {name: spread(_values(self._counts[split, name])) for name in LENGTHS}

    def bias(self, split: str) -> dict[str, float]:
        """`pairs`, of these `chosen_longer`, `same_length`, `rejected_longer`; `mean_difference` in tokens.

        `chosen_longer_share` is a share of the pairs of unequal length, 0.5 if there is none.
        """
        longer = self._longer[split]
        decided = longer["chosen"] + longer["rejected"]
        sums = {
            name: sum(tokens * rows for tokens, rows in self._counts[split, name].items())
            for name in ("chosen_tokens", "rejected_tokens")
        }
        difference = (sums["chosen_tokens"] - sums["rejected_tokens"]) / max(self.kept(split), 1)
        return {
            "pairs": self.kept(split),
            "chosen_longer": longer["chosen"],
            "same_length": longer["same"],
            "rejected_longer": longer["rejected"],
            "chosen_longer_share": round(longer["chosen"] / decided, 4) if decided else 0.5,
            "mean_difference": round(difference, 2),
        }


class Scripts:
    """In which script each prompt and answer is written, by most of its letters."""

    def __init__(self) -> None:
        self._texts = {split: {part: Counter[str]() for part in ("prompt", *SIDES)} for split in SPLITS}
        self._elsewhere: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}

    def add(self, split: str, rows: list[Row]) -> None:
        for row in rows:
            scripts = {side: main_script(answer_text(row[side])) for side in SIDES}
            scripts["prompt"] = main_script(" ".join(turn["content"] for turn in row["chosen"][:-1]))
            for part, script in scripts.items():
                self._texts[split][part][script] += 1
            for side in SIDES:
                self._elsewhere[split][side] += len({scripts["prompt"], scripts[side]} - {"none"}) == 2

    def summary(self, split: str) -> dict[str, Any]:
        """Per part its texts by script, the most frequent first; `other_than_prompt`: answers in another script."""
        by_part: dict[str, Any] = {part: dict(_by_count(counts)) for part, counts in self._texts[split].items()}
        return {**by_part, "other_than_prompt": {side: self._elsewhere[split][side] for side in SIDES}}


_LETTER = re.compile("[A-Za-z]")


@cache
def _script(character: str) -> str:
    """The first part of a letter's Unicode name, such as LATIN, CYRILLIC or CJK; empty for what is no letter."""
    return unicodedata.name(character, "").partition(" ")[0] if character.isalpha() else ""


def main_script(text: str) -> str:
    """The script of most letters of `text`, the first of several; "none" if it has no letter."""
    if text.isascii():
        return "LATIN" if _LETTER.search(text) else "none"
    scripts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        scripts[_script(character)] += count
    del scripts[""]
    return _by_count(scripts)[0][0] if scripts else "none"


class SharedAnswers:
    """Answers that several prompts have in common; their texts are read off the rows as these pass again."""

    def __init__(self, relations: Relations) -> None:
        self._kinds = {
            "on_both_sides": relations.answers_on_both_sides(EXAMPLES),
            "of_several_prompts": relations.answers_of_several_prompts(EXAMPLES),
        }
        self._places = {answer.place for _, answers in self._kinds.values() for answer in answers}
        self._texts: dict[int, str] = {}

    def add(self, split: str, first: int, rows: list[Row]) -> None:
        """Rows of the split, the first of them row `first`."""
        start = place(split, first)
        for at in [at for at in self._places if start <= at < start + len(rows)]:
            for side in SIDES:
                text = answer_text(rows[at - start][side]).strip()
                self._texts[digest(text)] = text

    def summary(self) -> dict[str, Any]:
        """Per kind: `count` of answers and `examples` with `text`, `prompts`, and how often `chosen` and `rejected`."""
        return {
            kind: {"count": count, "examples": [self._example(answer) for answer in answers]}
            for kind, (count, answers) in self._kinds.items()
        }

    def _example(self, answer: SharedAnswer) -> dict[str, Any]:
        text = self._texts[answer.answer]
        shown = text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS].rstrip() + "…"
        return {"text": shown, "prompts": answer.prompts, "chosen": answer.chosen, "rejected": answer.rejected}


def margins(relations: Relations) -> dict[str, Any]:
    """Per split with scores: rows, those whose label contradicts the scores (`negative`), ties (`zero`), the spread."""
    found = {}
    for split in SPLITS:
        values = relations.margins(split)
        if len(values):
            counts = {"rows": len(values), "negative": int((values < 0).sum()), "zero": int((values == 0).sum())}
            shares = {f"{name}_share": round(counts[name] / len(values), 4) for name in ("negative", "zero")}
            found[split] = {**counts, **shares, "spread": spread(values, 4)}
    return found


def spread(values: np.ndarray, digits: int = 2) -> dict[str, float]:
    """Where `values` lie."""
    values = values.astype(float)
    points = {key: round(float(np.percentile(values, at)), digits) for key, at in POINTS.items()}
    return points | {"mean": round(float(values.mean()), digits)}


def _values(counts: Counter[int]) -> np.ndarray:
    """Every value as often as it was counted, sorted."""
    pairs = sorted(counts.items())
    return np.repeat([value for value, _ in pairs], [count for _, count in pairs]) if pairs else np.empty(0, int)


def _by_count(counts: Counter[str]) -> list[tuple[str, int]]:
    """The most frequent first, then by name: the order of appearance would depend on nothing that a reader sees."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
