"""Pairs of random tokens whose lengths are equal, drawn as HH's are, or those of a folder of stage `pairs`."""

from pathlib import Path
from typing import Any

import numpy as np

from epsilon_dpo.pipeline.stage.files import read_jsonl

Lengths = list[tuple[int, int, int]]  # of prompt, chosen and rejected answer, in tokens
LONGEST = 512
FIRST_WORD = 3  # pad, bos and end-of-turn come before


def equal(count: int) -> Lengths:
    return [(128, 128, 128)] * count


def like_hh(count: int) -> Lengths:
    """Log-normal lengths in the image of HH harmless-base/test.

    There prompts have 120 tokens on average, chosen answers 42 and rejected ones 52, 3 % of pairs are longer than 512,
    and random batches of 2, 4 and 8 pairs compute 1.51, 1.95 and 2.37 times the real tokens. Here they have 112, 42 and
    51, none is longer than 512, and the factors are 1.49, 1.86 and 2.21.
    """
    random, lengths = np.random.default_rng(0), []
    while len(lengths) < count:
        prompt, (shared, *own) = random.normal(), random.normal(size=3)
        logs = [np.sqrt(0.3) * shared + np.sqrt(0.7) * x for x in own]  # the two answers to a prompt are correlated
        sizes = (132 * np.exp(0.9 * prompt - 0.405), 44 * np.exp(logs[0] - 0.5), 55 * np.exp(logs[1] - 0.5))
        rounded = tuple(max(2, round(size)) for size in sizes)
        if rounded[0] + max(rounded[1:]) <= LONGEST:
            lengths.append(rounded)
    return lengths


def of_folder(folder: Path) -> Lengths:
    """Those of a folder of stage `pairs` (out/pairs)."""
    sides = ("prompt_ids", "chosen_ids", "rejected_ids")
    return [tuple(len(row[side]) for side in sides) for row in read_jsonl(folder / "train.jsonl")]


def pairs_of(lengths: Lengths, vocab_size: int) -> list[dict[str, Any]]:
    """Pairs in the form of out/pairs/*.jsonl with random words."""
    random = np.random.default_rng(0)
    draw = lambda count: random.integers(FIRST_WORD, vocab_size, count).tolist()  # noqa: E731
    return [
        {"id": f"pair/{number}", "prompt_ids": draw(p), "chosen_ids": draw(c), "rejected_ids": draw(r)}
        for number, (p, c, r) in enumerate(lengths)
    ]
