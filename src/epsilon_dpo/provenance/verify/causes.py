"""Why a result differs: what was tried and made it equal, what is recorded and differs, or what its size tells."""

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from epsilon_dpo.provenance.verify.compare import CURVE
from epsilon_dpo.provenance.verify.findings import ORDER, FileDifference, tolerance
from epsilon_dpo.provenance.verify.surroundings import (
    FEATURES,
    PACKAGES,
    VARIABLES,
    settings_to_try,
)

PROCESSOR = "processor features"
COUNTERS = re.compile(r"\b(num_input_tokens_seen|num_tokens|tokens/\w+)$")  # of the data alone, in a training's curve
# Runs the stage once more: "recorded", "first" or "other" bytes, or SECOND_FAILED and how.
Trial = Callable[[Mapping[str, str | None]], str]
SECOND_FAILED = "the second run failed: "  # which proves nothing


def likely_cause(
    found: list[FileDifference],
    before: dict[str, str] | None,
    now: dict[str, str],
    steps: int,
    trial: Trial | None,
    proved: str = "",
) -> str:
    """One sentence that begins with the cause: processor features, package, threads, data order, ... or "unknown".

    Args:
        before: what the recorded result was computed with; None: not known.
        now: the same of this re-run.
        steps: optimizer steps of the training behind the output.
        trial: runs the stage with these variables set or taken away; None: nothing is tried.
        proved: a stage before it that came out bit-equal with other variables; empty if none did.
    """
    if trial is None:
        return _untried(found, before, now, steps, proved, "")
    for what, variables in settings_to_try(before, now).items():
        if trial(variables) == "recorded":
            return f"{PROCESSOR}: run once more {what}, it is bit-equal"
    second = trial({})
    if second in ("recorded", "other"):  # and not the first's
        return "not deterministic here: two runs with the same inputs on this machine differ from one another"
    if not second.startswith(SECOND_FAILED):
        return _untried(found, before, now, steps, proved, ", and a second run here gave the same bytes as the first")
    said = _untried(found, before, now, steps, proved, f", and {second}")
    return said if second in said else f"{said}; {second}"


def _untried(
    found: list[FileDifference],
    before: dict[str, str] | None,
    now: dict[str, str],
    steps: int,
    proved: str,
    tried: str,
) -> str:
    """The cause by what is recorded, or by the size; `tried` says what a second run gave."""
    order = _data_order(found)
    if order:
        return order
    facts = _differing_facts(before, now)
    if facts:
        return " and ".join(facts)
    if proved:
        return f"{PROCESSOR}, as of {proved}; not tried again"
    known = "MLflow has no record of it" if before is None else "what MLflow recorded of it is the same here"
    if before is not None and FEATURES not in before:
        known += ", and does not say on which processor it was made"
    return f"unknown: {known}{tried}; {_by_size(found, steps)}"


def is_proved(cause: str) -> bool:
    """Whether a cause was found by running the stage with other variables."""
    return cause.startswith(f"{PROCESSOR}: run once more")


def _data_order(found: list[FileDifference]) -> str | None:
    for difference in found:
        if ORDER in difference.kinds:
            return f"data order: {difference.file} has the same rows in another order from {difference.first.where} on"
        counted = [where for where in difference.beside if COUNTERS.search(where)]
        if PurePosixPath(difference.file).name == CURVE and counted:
            return f"data order: at {counted[0]} the batches differ"
    return None


def _differing_facts(before: dict[str, str] | None, now: dict[str, str]) -> list[str]:
    """What MLflow recorded and is otherwise here, by how often it is the cause."""
    facts: list[str] = []
    if before is None:
        return facts
    packages = [f"{name} was {before[name]} and is {now[name]}" for name in PACKAGES if _differs(name, before, now)]
    if packages:
        facts.append(f"package: {', '.join(packages)}")
    if _differs(VARIABLES, before, now):
        facts.append(f"{PROCESSOR}: the variables were {before[VARIABLES]} and are {now[VARIABLES]}")
    elif _differs(FEATURES, before, now):
        was, has = (set(side[FEATURES].split()) for side in (before, now))
        sides = (("that has", was - has), ("this one has", has - was))
        only = " and ".join(f"{who} {' '.join(sorted(more))}" for who, more in sides if more)
        facts.append(f"{PROCESSOR}: it was made on another processor, {before.get('processor')}; only {only}")
    if _differs("gpu", before, now):
        facts.append(f"GPU: it was {before.get('gpu', 'none')} and is {now.get('gpu', 'none')}")
    if _differs("machine", before, now):
        facts.append(f"threads: it was made on {before['machine']}, this is {now['machine']}")
    return facts


def _differs(name: str, before: dict[str, str], now: dict[str, str]) -> bool:
    if name == "gpu":
        return before.get(name) != now.get(name)
    return name in before and before[name] != now.get(name)


def _by_size(found: list[FileDifference], steps: int) -> str:
    first = found[0].first
    if first.relative is not None and first.relative <= tolerance(steps):
        return f"it begins as rounding does (relative {first.relative:.1e}): {PROCESSOR}, threads or a package's build"
    return "it is larger than rounding from the first place on: a package, data order, or an input that is not declared"
