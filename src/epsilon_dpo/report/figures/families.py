"""Which runs are points of one curve: those that differ by beta alone; those of one beta are one point."""

from typing import Any

from epsilon_dpo.pipeline.stage.params import in_yaml

# What a run may state without becoming another method: where it starts, how it is watched, how it is seeded.
NOT_THE_METHOD = ("beta", "seed", "snapshot_epochs")

Config = dict[str, Any]


def families(runs: dict[str, Config]) -> dict[str, str]:
    """The family of each run: its method, with the values that tell it from the method's other families.

    Args:
        runs: entries as in params.yaml.

    Returns:
        e.g. {"tr_dpo_hard_01": "tr_dpo, update hard"}, in the order of `runs`.
    """
    kept = {
        run: {k: v for k, v in config.items() if k not in NOT_THE_METHOD and v is not None}  # null is not stated
        for run, config in runs.items()
    }
    labels = {}
    for run, config in kept.items():
        own = next(one for one in kept.values() if one == config)  # 1 and 1.0 would be two labels
        labels[run] = _label(own, [one for one in kept.values() if one["method"] == own["method"]])
    return labels


def _label(own: Config, of_the_method: list[Config]) -> str:
    keys = dict.fromkeys(key for config in of_the_method for key in config)
    telling = [key for key in keys if any(config.get(key) != own.get(key) for config in of_the_method)]
    return ", ".join([own["method"], *(f"{key} {in_yaml(own[key])}" for key in telling if key in own)])
