"""The plan for a terminal: stages with the same reasons share a row."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from epsilon_dpo.provenance.graph.project import is_removed
from epsilon_dpo.provenance.plan.amounts import size_text, time_text
from epsilon_dpo.provenance.plan.steps import FROM_CACHE, MAY_RUN, RUN, UP_TO_DATE, Step

STAGES_WIDTH, WIDTH = 40, 120  # characters
CAUSES_SHOWN = 4  # per row
RUNS_NAMED = 3  # of one stage in a row


def table(
    steps: Sequence[Step], gone: Sequence[str] = (), at_work: str | None = None, every: Sequence[str] | None = None
) -> str:
    """The plan as text.

    Args:
        gone: stages of dvc.lock that dvc.yaml no longer has.
        at_work: the DVC process that changes outputs meanwhile, if there is one.
        every: as of `accepting`.
    """
    parts = [_summary(steps)]
    if at_work:
        parts[0] = f"DVC is at work here ({at_work}): this is the plan of this moment.\n{parts[0]}"
    rows = _rows(steps)
    if rows:
        parts.append("\n".join(rows))
    if any(step.action == MAY_RUN for step in steps):
        parts.append(f"{MAY_RUN}: DVC skips it if what it reads keeps its bytes, or takes it from its run cache.")
    elif any(step.after for step in steps):
        parts.append("A stage behind one that runs may still come from DVC's run cache, which is asked only then.")
    if any(step.action == FROM_CACHE for step in steps):
        parts.append(
            f"{FROM_CACHE}: DVC restores what dvc.lock names, or the result of an earlier run with the same inputs."
        )
    command = accepting(steps, every)
    if command:
        parts.append(
            "No edit of these can change their results, so DVC can be told to accept it without a run:\n"
            f"  {command}\n"
            "Given up: dvc.lock then names code that did not make these outputs. Run them before you publish."
        )
    if gone:
        removed = ", but stage check removes their folders out/*/RUN" if any(map(is_removed, gone)) else ""
        said = f"dvc.lock also has {', '.join(gone)}, which dvc.yaml no longer has: nothing runs for them{removed}."
        parts.append("\n".join(textwrap.wrap(said, WIDTH)))
    return "\n\n".join(parts)


def accepting(steps: Sequence[Step], every: Sequence[str] | None = None) -> str:
    """The `dvc commit` for the stages that would run for edits alone that change no result; empty if there are none.

    Args:
        every: the stages of dvc.yaml, of which `steps` may be some: a run that was not looked at must not be accepted
            by the name of its group. None: `steps` are all.
    """
    chosen = [step.name for step in steps if step.acceptable]
    found = names(chosen, every or [step.name for step in steps])
    return f"dvc commit -f {' '.join(name.removesuffix('@*') for name in found)}" if chosen else ""


def names(chosen: Sequence[str], every: Sequence[str]) -> list[str]:
    """`chosen` in their order, a stage@* where it has more than one run and all of them are chosen."""
    found: dict[str, None] = {}
    for name in chosen:
        group = name.partition("@")[0] + "@"
        whole = [other for other in every if other.startswith(group)]
        found[f"{group}*" if len(whole) > 1 and set(whole) <= set(chosen) else name] = None
    return list(found)


def _summary(steps: Sequence[Step]) -> str:
    of = {action: [step for step in steps if step.action == action] for action in (RUN, MAY_RUN, FROM_CACHE)}
    if not any(of.values()):
        return f"All {len(steps)} stages are up to date: `dvc repro` would run nothing."
    said = [f"{len(of[RUN])} of {len(steps)} stages would run{_cost(of[RUN])}"]
    if of[MAY_RUN]:
        said.append(f"{len(of[MAY_RUN])} may{_cost(of[MAY_RUN])}")
    if of[FROM_CACHE]:
        said.append(f"{len(of[FROM_CACHE])} would come from DVC's cache")
    return ", ".join(said) + "."


def _cost(steps: Sequence[Step]) -> str:
    """Of the earlier runs, as far as they are known, in brackets."""
    said = ", ".join(filter(None, (_time(steps), _disk(steps))))
    return f" ({said} last time)" if said else ""


def _time(steps: Sequence[Step]) -> str:
    """How long their last runs took together; empty if that is known of none."""
    known = [step.seconds for step in steps if step.seconds is not None]
    return time_text(sum(known)) if known else ""


def _disk(steps: Sequence[Step]) -> str:
    """How much their outputs take together; empty if that is known of none."""
    known = [step.size for step in steps if step.size is not None]
    return size_text(sum(known)) if any(known) else ""


def _rows(steps: Sequence[Step]) -> list[str]:
    groups: dict[tuple[str, ...], list[Step]] = {}
    every = [step.name for step in steps]
    shown = [step for step in steps if step.action != UP_TO_DATE]
    for step in shown:
        groups.setdefault((step.action, *_why(step, every)), []).append(step)
    timed = bool(_time(shown))
    lines = [_line("", "stages", "time" if timed else "", "disk", "why", timed)] if groups else []
    return lines + [line for group in groups.values() for line in _row(group, every, timed)]


def _row(group: Sequence[Step], every: Sequence[str], timed: bool) -> Iterator[str]:
    """The lines of steps that share an action and its reasons."""
    action = group[0].action
    alone = len({step.name.partition("@")[2] for step in group}) == 1  # RUN would hide the only one
    about = "~" if any(step.like for step in group) else ""
    took, disk = (amount and about + amount for amount in (_time(group), _disk(group)))
    if action == FROM_CACHE:
        took = ""
    cells = textwrap.wrap(", ".join(_few(names([step.name for step in group], every))), STAGES_WIDTH)
    width = WIDTH - len(_line("", "", "", "", "", timed))
    why = _why(group[0], every, alone)
    reasons = [line for reason in why for line in textwrap.wrap(reason, width, subsequent_indent="  ")]
    for cell, reason in zip_longest(cells, reasons, fillvalue=""):
        yield _line(action, cell, took, disk, reason, timed).rstrip()
        action = took = disk = ""  # they stand in the first line alone


def _few(found: Sequence[str]) -> list[str]:
    """A few runs of each stage by name and the others as their number, since a project may have a hundred."""
    of: dict[str, list[str]] = {}
    for name in found:
        of.setdefault(name.partition("@")[0], []).append(name)
    few: list[str] = []
    for stage, runs in of.items():
        more = len(runs) - RUNS_NAMED
        few += runs if more <= 1 else [*runs[:RUNS_NAMED], f"and {more} more {stage}@"]
    return few


def _line(action: str, stages: str, time: str, size: str, why: str, timed: bool) -> str:
    middle = f"{time:>7}  " if timed else ""
    return f"{action:<10}  {stages:<{STAGES_WIDTH}}  {middle}{size:>7}  {why}"


def _why(step: Step, every: Sequence[str], alone: bool = False) -> list[str]:
    """The reasons, each one line; those beyond the first few as their number."""
    run = step.name.partition("@")[2]
    own = [cause for cause in step.causes if cause.kind != "read"]
    read = [cause.what for cause in step.causes if cause.kind == "read"]
    texts = list(dict.fromkeys(cause.text for cause in own))
    if read and all(cause.harmless for cause in own):  # else it is one edit's doing
        if run and not alone:
            read = [re.sub(f"/{run}$", "/RUN", path) for path in read]
        texts.append(f"other bytes in {', '.join(read)}")
    if len(texts) > CAUSES_SHOWN:
        texts = [*texts[: CAUSES_SHOWN - 1], f"and {len(texts) - CAUSES_SHOWN + 1} more (--json has all)"]
    if step.after and all(cause.harmless for cause in step.causes):
        texts.append(f"follows {_followed(step, every, alone)}")
    return texts


def _followed(step: Step, every: Sequence[str], alone: bool) -> str:
    """What a step waits for; what is of its own run as stage@RUN, if the rows of several runs share that."""
    run = step.name.partition("@")[2]
    own = [name for name in step.after if run and name.endswith(f"@{run}")]
    others = names([name for name in step.after if name not in own], every)
    return ", ".join([*_few(others), *(name if alone else f"{name.partition('@')[0]}@RUN" for name in own)])
