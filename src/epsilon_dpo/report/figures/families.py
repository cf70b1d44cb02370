"""Which runs are points of one curve: those that differ by beta alone."""

from typing import Any

# What a run may state without becoming another method: where it starts, how it is watched, how it is seeded.
NOT_THE_METHOD = ("beta", "seed", "snapshot_epochs")

Numbers = dict[str, Any]


def families(runs: dict[str, Numbers]) -> dict[str, str]:
    """The family of each run: its method, with the numbers that tell it from the method's other families.

    Args:
        runs: as in params.yaml.

    Returns:
        e.g. {"tr_dpo_hard_01": "tr_dpo, update hard"}, in the order of `runs`.
    """
    kept = {run: {k: v for k, v in numbers.items() if k not in NOT_THE_METHOD} for run, numbers in runs.items()}
    return {run: _label(own, [x for x in kept.values() if x["method"] == own["method"]]) for run, own in kept.items()}


def _label(own: Numbers, of_the_method: list[Numbers]) -> str:
    keys = dict.fromkeys(key for numbers in of_the_method for key in numbers)
    telling = [key for key in keys if any(numbers.get(key) != own.get(key) for numbers in of_the_method)]
    return ", ".join([own["method"], *(f"{key} {own[key]}" for key in telling if key in own)])
