"""Noise on the labels of generated pairs: annotators who get a share of them wrong, and outliers, which say nothing.

A label that was drawn from the true reward is noise-free in this sense: it errs where two answers are close, as people
agree to. Noise is what comes on top, on close and on distant pairs alike: annotator j stores the opposite of what was
drawn at the rate `flip`; an outlier, whoever it came from, is a fair coin.

    P(stored is not what was drawn) = (1 - outliers) flip_j + outliers / 2

Each row's noise is drawn from the seed and the row's number alone. So noise changes which side is called chosen and
nothing else, and a higher `flip` turns over the labels that a lower one does, and more.
"""

import random
from collections.abc import Sequence
from itertools import accumulate

from epsilon_dpo.data.sources.params import SyntheticSource
from epsilon_dpo.pipeline.stage.files import Row


def is_noisy(source: SyntheticSource) -> bool:
    return source.annotators is not None or source.outliers > 0.0


def flip_rates(source: SyntheticSource) -> list[float]:
    """The probability that a label is stored the wrong way round, by annotator (one for all if there are none)."""
    flips = [one.flip for one in source.annotators or []] or [0.0]
    return [round((1.0 - source.outliers) * flip + source.outliers / 2.0, 12) for flip in flips]


def mean_flip_rate(source: SyntheticSource) -> float:
    """Over all labels."""
    shares = [one.share for one in source.annotators or []] or [1.0]
    return round(sum(share * rate for share, rate in zip(shares, flip_rates(source), strict=True)), 12)


def with_noise(rows: Sequence[Row], source: SyntheticSource, seed: str) -> list[Row]:
    """`rows` as the annotators label them, each with `clean`, `flip_rate` and, where there are several, `annotator`.

    `clean`: the label is the one that was drawn, which an outlier's may be, too. `flip_rate`: how likely it was not to
    be. `annotator`: place in `source.annotators`, from 0.
    """
    rates, noisy = flip_rates(source), []
    ends = list(accumulate(one.share for one in source.annotators or []))[:-1]
    for number, row in enumerate(rows):
        rng = random.Random(f"{seed}/{number}")
        who, error, stray, coin = (rng.random() for _ in range(4))  # all of them always: no rate moves another draw
        annotator = sum(who >= end for end in ends)
        flip = source.annotators[annotator].flip if source.annotators else 0.0
        flipped = coin < 0.5 if stray < source.outliers else error < flip
        sides = {"chosen": row["rejected"], "rejected": row["chosen"]} if flipped else {}
        whose = {"annotator": annotator} if source.annotators else {}
        noisy.append({**row, **sides, **whose, "flip_rate": rates[annotator], "clean": not flipped})
    return noisy
