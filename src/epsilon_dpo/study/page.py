"""docs/replication.md: every claim with what was measured and the verdict, from study/ and nothing else."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from epsilon_dpo.analysis.intervals.rates import standard_error
from epsilon_dpo.mlflow_writer.identity import recipe
from epsilon_dpo.pipeline.stage.files import Row, write_json
from epsilon_dpo.study.claims import STUDY, Level, Study, Verdict, read_study
from epsilon_dpo.study.collect import known_replicates, read_results, results_folder
from epsilon_dpo.study.summary import by_recipe, summarise, values_of
from epsilon_dpo.study.verdicts import SMALLEST_PART, Answer, Finding, findings

PAGE = Path("docs/replication.md")
VERDICTS = "verdicts.json"  # below study/, for the report
NOTES = "notes.md"  # what a person wrote: what surprised, what broke
INTRODUCTION = """# What is true of ε-DPO

This page tests claims of the ε-DPO paper ([arXiv 2502.13177](https://arxiv.org/abs/2502.13177)), of the slides on DPO
that [rlhf.md](rlhf.md) replicates, and our own. Each claim has a value, its {confidence:.0%} interval and a verdict.

{counts}"""
READING = """## How to read a verdict

- A claim **holds** if its interval lies entirely on the side that the claim names, and **fails** if it lies entirely on
  the other side. It is **undecided at this n** if the interval reaches both sides.
- It is **mixed** if by the same rule it holds in one part of what is averaged, such as at one β, and fails in another.
  The mean then depends on the choice of β as much as on the methods, and more replicates would not decide it.
- *n* is the number of replicates. Each has another seed and gives one value; the interval is Student's t for their
  mean.
- Fewer than three replicates decide nothing, nor does a difference of win rates smaller than half a prompt. While
  replicates are missing, a verdict is preliminary.
- A part of a mean decides nothing where a replicate lacks it, and makes no claim mixed where it is less than 5% of the
  mean.
- An interval is for its claim alone: of twenty claims where no difference exists, about one will look decided.
- The table above counts a sentence of the paper once for each setting and for each part in which it is measured.

Terms of the claims:

- **KL** is KL(reference || policy) in nats per answer, summed over the whole vocabulary at each token of the
  reference's answers (`kl_fwd_rb` of stage `kl`). The reference is the SFT policy.
- **Wins** are over the chosen answers, and ties count half. *True* wins are decided by
  [the reward of the generated data](../src/epsilon_dpo/data/generated/truth.py), the others by a judge.
- **At an equal KL budget** a method may use any mixture of the reference and its policies with at most that KL; the win
  rates of the best mixtures are compared and averaged over budgets.
- A **decreasing** pair is one whose log-prob margin falls as β rises, so that ε-DPO lowers its β. An **increasing**
  pair is the opposite. Both are *decided*; any other pair *ties*."""
DECIDED = ("holds", "fails")
ANSWER_AGAIN = "To be answered anew: a verdict is no longer the one that the answer in study/claims.yaml was given for"
OURS = "our own"
POST_HOC = "added or defined anew after a look at the values"


def page() -> str:
    """The page as Markdown."""
    study, results, found = _read()
    parts = [_head(study, found), _in_short(study, found), READING, _levels(study, results), _table(study, found)]
    parts += [
        _curves(study, results),
        _definitions(found),
        (STUDY / NOTES).read_text("utf-8").strip(),
        _sources(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_page() -> Path:
    """The page, whose path is returned, and its table in study/verdicts.json."""
    PAGE.write_text(page(), "utf-8")
    write_json(STUDY / VERDICTS, verdict_table())
    return PAGE


def show() -> str:
    """Write a summary of each level that has results into MLflow's store (`summarise`).

    Returns:
        the address of the first level's view; empty where the store cannot be reached, which is tried once.
    """
    study, addresses = read_study(), []
    for level in study.levels:
        if rows := read_results(level):
            addresses.append(summarise(level, rows, study.confidence))
            if not addresses[-1]:
                return ""
    return next(iter(addresses), "")


def verdict_table() -> Row:
    """The table of the page for a program: `confidence`, `levels` by name, and a row per claim in `claims`."""
    study, results, found = _read()
    levels = {
        name: {"title": level.title, "replicates": _replicates(level, results.get(name, []))}
        for name, level in study.levels.items()
    }
    claims = [
        {"claim": finding.claim.claim, "level": finding.claim.level, "unit": finding.claim.unit}
        | {"post_hoc": finding.claim.post_hoc}
        | {name: _rounded(getattr(finding, name)) for name in ("value", "low", "high")}
        | {"n": len(finding.by_seed)}
        | {"verdict": finding.verdict, "note": _note(study, finding)}
        for finding in found
    ]
    return {"confidence": study.confidence, "levels": levels, "claims": claims}


def _read() -> tuple[Study, dict[str, list[Row]], list[Finding]]:
    study = read_study()
    results = {level: rows for level in study.levels if (rows := read_results(level))}
    return study, results, findings(study, results)


def _rounded(value: float | None) -> float | None:
    """Finer than the page shows, so that both round alike; the last digits of a sum are the processor's."""
    return None if value is None else round(value, 6)


def _head(study: Study, found: Sequence[Finding]) -> str:
    verdicts = [said for said in get_args(Verdict) if any(finding.verdict == said for finding in found)]
    titles = [f"holds {said}" if said == "by a test" else said for said in verdicts]
    rows = [_row(("claims", *titles)), "|---" * (1 + len(verdicts)) + "|"]
    for name, own in _groups(found).items():
        rows.append(_row((name, *(str(sum(one.verdict == said for one in own)) for said in verdicts))))
    return INTRODUCTION.format(counts="\n".join(rows), confidence=study.confidence)


def _groups(found: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Claims that were chosen by their values say less, and our own say nothing of the paper: each is counted apart."""
    groups = {
        "of the paper and the slides": [one for one in found if not one.claim.post_hoc and not one.claim.ours],
        OURS: [one for one in found if not one.claim.post_hoc and one.claim.ours],
        POST_HOC: [one for one in found if one.claim.post_hoc],
    }
    return {name: own for name, own in groups.items() if own}


def _in_short(study: Study, found: Sequence[Finding]) -> str:
    """A person's answers, unless the verdicts that he saw are others now, with the study's values beside them."""
    if not study.in_short:
        return ""
    of = {finding.claim.id: finding for finding in found}
    rows = ["## In short", "", "| question | answer | verdict, value [interval], n |", "|---|---|---|"]
    for row in study.in_short:
        measured = "<br>".join(f"{name}: {_briefly(of[id_])}" for name, id_ in row.claims.items())
        still = row.seen == [of[id_].verdict for id_ in row.claims.values()]
        rows.append(_row((row.question, row.answer if still else ANSWER_AGAIN, measured)))
    return "\n".join(rows)


def _briefly(finding: Finding) -> str:
    verdict = "holds by a test" if finding.claim.test else finding.verdict
    parts = [f"[{verdict}](#{finding.claim.id})", _measured(finding, finding.claim.unit)]
    n = f"n {len(finding.by_seed)}" if finding.by_seed else ""
    return ", ".join(part for part in (*parts, n) if part)


def _levels(study: Study, results: Mapping[str, Sequence[Row]]) -> str:
    lines = ["## The settings", "", "A setting is called a *level*; a claim is measured at one of them."]
    lines += ["", "| level | setting | new in each replicate | replicates |", "|---|---|---|---|"]
    commands = []
    for name, level in study.levels.items():
        done = _replicates(level, results.get(name, []))
        needs = f", needs {level.needs}" if level.needs and name not in results else ""
        lines.append(f"| {name} | {level.title} | {level.drawn or ''} | {done}{needs} |")
        if level.preset:
            commands.append(f"cp {level.preset} params.yaml && epsilon-dpo study run {name}")
    block = [
        "To run a level, copy its preset and run it; the last command writes this page from `study/` anew:",
        "",
        "```sh",
    ]
    block += [*commands, "epsilon-dpo study page", "```", ""]
    block += ["Where a preset needs something of yours, such as the folder of a model, it says `SET THIS`."]
    return "\n".join([*lines, "", *block])


def _replicates(level: Level, rows: Sequence[Row]) -> str:
    return f"{len({row['seed'] for row in rows})} of {len(level.seeds)}" if level.preset else "not run"


def _table(study: Study, found: Sequence[Finding]) -> str:
    """A table per group, those of one verdict together; a claim's link leads to its definition."""
    parts = ["## The claims\n\nA claim links its definition, its value in each replicate and in each part of the mean."]
    for group, own in _groups(found).items():
        rows = [f"### {_title(group)}", "", "| claim | verdict | measured [interval] | n | level | where |"]
        rows.append("|---|---|---|---|---|---|")
        for finding in sorted(own, key=lambda one: get_args(Verdict).index(one.verdict)):
            claim = finding.claim
            measured, n = _measured(finding, claim.unit), str(len(finding.by_seed) or "")
            name, level = f"[{claim.claim}](#{claim.id})", claim.level or ""
            rows.append(_row((name, _verdict(study, finding), measured, n, level, claim.place)))
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def _title(group: str) -> str:
    return f"{group.capitalize()} claims" if group == OURS else f"Claims {group}"


def _row(cells: Sequence[str]) -> str:
    """Of a table; GitHub ends a cell at every bar, such as that of KL(a || b)."""
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _measured(found: Answer, unit: str) -> str:
    """Value, interval and unit, as far as there are any."""
    if found.value is None:
        return ""
    interval = "" if found.low is None else f" [{found.low:+.3f}, {found.high:+.3f}]"
    return f"{found.value:+.3f}{interval} {unit}".strip()


def _verdict(study: Study, finding: Finding) -> str:
    if finding.claim.test is not None:
        return f"holds by [a test](../{finding.claim.test.partition('::')[0]})"
    verdict, level = finding.verdict, study.levels.get(finding.claim.level or "")
    said, note = f"**{verdict}**" if verdict in (*DECIDED, "mixed") else verdict, _note(study, finding)
    lacking = len(level.seeds) - len(finding.by_seed) if level and finding.value is not None else 0
    if level and lacking:
        said += f", preliminary: {lacking} of {len(level.seeds)} replicates lacking"
    return f"{said}: {note}" if note else said


def _note(study: Study, finding: Finding) -> str:
    """Why there is no verdict, or what a mixed one is of; else empty."""
    if finding.verdict == "mixed":
        parts = [(name, part.verdict) for name, part in finding.parts.items() if part.share >= SMALLEST_PART]
        named = {said: ", ".join(name for name, verdict in parts if verdict == said) for said in DECIDED}
        return "; ".join(f"{said} {names}" for said, names in named.items())
    if finding.verdict == "not run":
        level = study.levels.get(finding.claim.level or "")
        needs = finding.claim.needs or (level and level.needs)
        return f"needs {needs}" if needs else f"`epsilon-dpo study run {finding.claim.level}` runs it"
    if finding.missing:
        seed, why = next(iter(finding.missing.items()))
        return f"seed {seed}, {why}"
    return ""


def _curves(study: Study, results: Mapping[str, Sequence[Row]]) -> str:
    parts = []
    for level, rows in results.items():
        note = study.levels[level].note
        prompts = sorted({int(row["prompts"]) for row in rows if row["prompts"]})
        lines = [
            f"## Level {level}: {study.levels[level].title}",
            "",
            "Means over replicates ± standard error: KL(reference || policy) in nats, wins over the chosen answers."
            + (f" {note}" if note else "")
            + f" Prompts of a replicate: {' to '.join(map(str, prompts[:1] + prompts[1:][-1:]))}.",
            "",
            "| recipe | β | KL | true win rate | judge's win rate |",
            "|---|---|---|---|---|",
        ]
        for (entry, beta), own in by_recipe(rows).items():
            values = " | ".join(_mean(own, column) for column in ("kl", "win_rate_true", "win_rate_judge"))
            lines.append(f"| {recipe(json.loads(entry))} | {beta} | {values} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _mean(rows: Sequence[Row], column: str) -> str:
    values = values_of(rows, column)
    if not values:
        return ""
    error = f" ± {standard_error(values):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{error}"


def _definitions(found: Sequence[Finding]) -> str:
    parts = ["## Definitions"]
    for finding in found:
        claim = finding.claim
        lines = [f'### <a id="{claim.id}"></a>{claim.claim}', "", f"- Measured: {claim.definition}."]
        lines.append(f"- Refuted by {claim.refuted_by}.")
        if finding.by_seed:
            values = ", ".join(f"{seed}: {value:+.4f}" for seed, value in finding.by_seed.items())
            lines.append(f"- By seed: {values}.")
        lines += _parts(finding)
        lines += [f"- Seed {seed} has no value: {why}." for seed, why in finding.missing.items()]
        if claim.test:
            lines.append(f"- Held by `{claim.test}`.")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _parts(finding: Finding) -> list[str]:
    """A line for each; all β count alike, the kinds of budgets do not."""
    alike = len({part.share for part in finding.parts.values()}) == 1
    lines = []
    for name, part in finding.parts.items():
        of = [] if alike else [f"{part.share:.0%} of all budgets"]
        if part.n < len(finding.by_seed):
            of.append(f"in {part.n} of {len(finding.by_seed)} replicates")
        where = name[0].upper() + name[1:] + (f" ({', '.join(of)})" if of else "")
        said = f", {part.verdict}" if part.verdict in DECIDED else ""
        lines.append(f"- {where}: {_measured(part, '')}{said}.")
    return lines


def _sources(results: Mapping[str, Sequence[Row]]) -> str:
    lines = ["## Where the numbers come from"]
    for level in results:
        file = results_folder(level) / "policies.csv"
        lines += [
            "",
            f"Level {level}: [policies.csv](../{file}), a row per policy. Its replicates have the same params.yaml "
            f"but for `seed`, and `threads` and paths, which are a machine's own.{_versions(level)}",
            "",
        ]
        lines += ["| seed | commit | torch | transformers | collected on |", "|---|---|---|---|---|"]
        for seed, made in known_replicates(level).items():
            commit = made["commit"][:10] + (" with changes" if made["uncommitted_changes"] else "")
            cells = (seed, commit, made["torch"], made["transformers"], made["collected_on"])
            lines.append(_row(cells))
    return "\n".join(lines) if results else ""


def _versions(level: str) -> str:
    """Replicates of several versions of the code also differ by what changed between these."""
    commits = len({made["commit"] for made in known_replicates(level).values()})
    if commits == 1:
        return ""
    return f" {commits} versions of the code made them, so their spread includes what changed between these."
