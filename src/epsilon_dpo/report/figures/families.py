"""Which runs are points of one curve: those that differ by beta alone."""

from typing import Any

from epsilon_dpo.methods.registry import method_of

# What a run may state without becoming another method: where it starts, how it is watched, how it is seeded.
NOT_THE_METHOD = ("beta", "seed", "snapshot_epochs")

Config = dict[str, Any]


def families(runs: dict[str, Config]) -> dict[str, str]:
    """The family of each run: its method, with the values that tell it from the method's other families.

    Args:
        runs: entries as in params.yaml; a default that is stated is no other value than one that is left out.

    Returns:
        e.g. {"tr_dpo_hard_01": "tr_dpo, update hard"}, in the order of `runs`.

    Raises:
        UserError: an entry that its method refuses.
    """
    kept = {
        run: method_of(run, config).config.model_dump(exclude=set(NOT_THE_METHOD), exclude_defaults=True)
        for run, config in runs.items()
    }
    return {run: _label(own, [x for x in kept.values() if x["method"] == own["method"]]) for run, own in kept.items()}


def _label(own: Config, of_the_method: list[Config]) -> str:
    keys = dict.fromkeys(key for config in of_the_method for key in config)
    telling = [key for key in keys if any(config.get(key) != own.get(key) for config in of_the_method)]
    return ", ".join([own["method"], *(f"{key} {own[key]}" for key in telling if key in own)])
