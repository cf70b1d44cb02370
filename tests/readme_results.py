"""The results that README.md states, read out of its sentences.

test_readme.py reads them without a pipeline, so that a sentence said otherwise fails in the quick suite too;
test_pipeline.py holds them against the pipeline's own.
"""

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
ALIKE = "By the true reward the three are **statistically indistinguishable**"


def table() -> list[tuple[str, ...]]:
    """Each run's rates with their intervals (true, then the judge's) and its KL with its standard error."""
    number = r"([\d.]+)"
    row = rf"\| {number} \({number}–{number}\) \| {number} \({number}–{number}\) \| {number} ± {number} \|"
    return re.findall(row, README)


def beside_the_table() -> dict[str, float]:
    """The judge's agreement with the truth, and how often answers to other prompts win to the judge and truly."""
    sentence = (
        r"agrees with the truth in (\d+) %.* beat the chosen ones in (\d+) % by the judge, in (\d+) % by the truth"
    )
    said = " ".join(README.split())
    assert ALIKE in said, f"README.md states no longer: {ALIKE}"
    shares = re.search(sentence, said)
    assert shares, f"README.md states no longer: {sentence}"
    return {
        name: int(share) / 100
        for name, share in zip(("truth_agreement", "win_rate", "true_win_rate"), shares.groups(), strict=True)
    }


def over_seeds() -> tuple[list[str], str]:
    """The standard deviations between seeds: of each run's KL, and of the runs' true win rates."""
    sentence = r"the KLs have standard deviations of ([\d., ]+), the true win rates over chosen answers of ([\d.]+)\. "
    found = re.search(sentence, " ".join(README.split()))
    assert found, f"README.md states no longer: {sentence}"
    return found[1].split(", "), found[2]
