"""Reviews of no film: as many different sentences as a test asks for, with their labels, as the CSV file is."""

import csv
import random
from pathlib import Path

SUBJECTS = ("the plot", "this film", "the cast", "every scene", "the ending", "the music", "its hero", "the script")
GOOD = ("wonderful", "moving", "clever", "a joy", "superb", "warm and funny")
BAD = ("dull", "a mess", "tedious", "clumsy", "awful", "cold and empty")
TAILS = ("from start to end", "in every way", "and nothing less", "for all its length", "as one expected", "once more")
NAMES = (
    *("ann", "ben", "cleo", "dan", "eva", "finn", "gina", "hugo", "ida", "jon", "kim", "leo", "mia", "ned", "olga"),
    *("pia", "quinn", "rosa", "sam", "tina", "uwe", "vera", "will", "xenia", "yara", "zoe"),
)


def reviews(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(text, label) of `count` different sentences, half of them positive; the first four words do not tell."""
    rng, found = random.Random(seed), dict[str, str]()
    while len(found) < count:
        label = str(len(found) % 2)
        said = rng.choice(GOOD if label == "1" else BAD)
        text = f"{rng.choice(NAMES)} and {rng.choice(NAMES)} say {rng.choice(SUBJECTS)} is {said} {rng.choice(TAILS)} ."
        found.setdefault(text, label)
    return list(found.items())


def write_reviews(file: Path, rows: list[tuple[str, str]], part: str = "rotten_tomatoes") -> Path:
    """A CSV file with the columns text, label, source."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["text", "label", "source"])
        writer.writerows((text, label, part) for text, label in rows)
    return file
