"""What a small PairRM is shown, and in which order: labelled pairs, and answers against answers to other prompts.

Both answers of a labelled pair answer its prompt, so labels alone teach what a good answer looks like and hardly that
it must answer the question. In a mismatched pair the worse answer is the one chosen for another prompt. It comes with
its mirror image, the same two answers to that other prompt, where the verdict is the opposite: whatever can be said of
the two answers without the prompt cancels out, and what is left to learn is which answer belongs to which prompt.

Which prompts meet is drawn anew in each epoch; a small model learns fixed mismatches by heart, and nothing from them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from epsilon_dpo.data.prompts.prompt_ids import prompt_id
from epsilon_dpo.judging.judges.interface import Question
from epsilon_dpo.pipeline.observability.errors import UserError


class Example(NamedTuple):
    """One pair, whose better answer is the one chosen for `row`.

    Attributes:
        row: whose prompt it is, by its place among the training pairs.
        other: whose chosen answer is the worse one, an answer to another prompt; None: `row`'s own rejected answer.
        better_first: whether the better answer is the first candidate.
    """

    row: int
    other: int | None
    better_first: bool

    def question(self, pairs: list[Question]) -> Question:
        """The question that it asks; its better answer is `a`, whichever comes first."""
        prompt, chosen, rejected = pairs[self.row]
        return Question(prompt, chosen, rejected if self.other is None else pairs[self.other].a)


def draw_examples(pairs: list[Question], count: int, first: float, share: float, seed: int) -> list[Example]:
    """A training's `count` examples in order: a function of the arguments alone, so that a resumed training sees what
    the uninterrupted one would have seen.

    Labelled and mismatched pairs are each drawn epoch by epoch, every row once, but for rows that meet one with the
    same prompt or the same answer.

    Args:
        pairs: the training pairs, `a` the chosen answer.
        first: share of the examples at the beginning that are all mismatched, in [0, 1).
        share: share of mismatched ones among the rest, in [0, 1).

    Raises:
        UserError: mismatched pairs are wanted, and all pairs have one prompt, or one chosen answer.
    """
    draw = np.random.default_rng(seed)
    labelled, couples = _rows(len(pairs), draw), _couples(pairs, draw)
    only_mismatched = round(first * count)
    couple_chance = share / (2.0 - share)  # a couple is two examples
    found: list[Example] = []
    while len(found) < count:
        if len(found) < only_mismatched or draw.random() < couple_chance:
            row, other = next(couples)
            found += [_example(row, other, draw), _example(other, row, draw)]
        else:
            found.append(_example(next(labelled), None, draw))
    return found[:count]


def _example(row: int, other: int | None, draw: np.random.Generator) -> Example:
    return Example(row, other, bool(draw.integers(2)))


def _rows(count: int, draw: np.random.Generator) -> Iterator[int]:
    while True:
        yield from draw.permutation(count).tolist()


def _couples(pairs: list[Question], draw: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Two rows each with different prompts and different chosen answers."""
    prompts, chosen = [prompt_id(pair.prompt) for pair in pairs], [pair.a.strip() for pair in pairs]
    if len(set(prompts)) < 2 or len(set(chosen)) < 2:
        raise UserError(
            "all training pairs have the same prompt or the same chosen answer, so no answer is one to another prompt; "
            "set judge.mismatched_first and judge.mismatched_share to 0.0."
        )
    rows = _rows(len(pairs), draw)
    while True:
        row, other = next(rows), next(rows)
        if prompts[row] != prompts[other] and chosen[row] != chosen[other]:
            yield row, other
