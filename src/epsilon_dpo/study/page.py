"""docs/replication.md: every claim with what was measured and the verdict, from study/ and nothing else."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from epsilon_dpo.analysis.intervals.rates import standard_error
from epsilon_dpo.mlflow_writer.identity import recipe
from epsilon_dpo.pipeline.stage.files import Row, write_json
from epsilon_dpo.study.claims import STUDY, Level, Study, read_study
from epsilon_dpo.study.collect import known_replicates, read_results, results_folder
from epsilon_dpo.study.summary import by_recipe, summarise, values_of
from epsilon_dpo.study.verdicts import SMALLEST_PART, Answer, Finding, Verdict, findings

PAGE = Path("docs/replication.md")
VERDICTS = "verdicts.json"  # below study/, for the report
NOTES = "notes.md"  # what a person wrote: what surprised, what broke
INTRODUCTION = """# What is true of ε-DPO

Claims of the paper (arXiv 2502.13177), of the slides on DPO and of our own, what we measured, and a verdict:

{counts}

A claim *holds* where the {confidence:.0%} interval lies on the side that the claim names, *fails* where it lies on the
other, and is *undecided at this n* where it reaches to both. It is *mixed* where by the same rule it holds in one part
of what is averaged, such as at one β, and fails in another: then the mean says as much of the choice of β as of the
methods, and further replicates decide nothing. *n* counts replicates, each with another seed and one value, of whose
mean the interval is Student's. The intervals are of each claim by itself: of twenty claims about which nothing is true,
one will look decided. A sentence of the paper that is measured in several settings, or in two parts, counts once for
each. Two replicates decide nothing, nor does a difference of win rates smaller than half a prompt, and as long as
replicates are lacking, verdicts are preliminary.

KL is KL(reference || policy) in nats per answer, summed over the whole vocabulary at each token of the reference's
answers (`kl_fwd_rb` of [stage kl](methods.md)); the reference is the SFT policy. Wins are over the chosen answers, ties
count half; the *true* ones are by [the reward of the generated data](../src/epsilon_dpo/data/generated/truth.py). A
*decreasing* pair is one whose log-prob margin falls as β rises, so that ε-DPO lowers its β; an *increasing* pair the
other way round; both are *decided*."""
DECIDED = ("holds", "fails")
POST_HOC = "added after a look at the values"


def page() -> str:
    """The page as Markdown."""
    study, results, found = _read()
    parts = [_head(study, found), _levels(study, results), _table(study, found), _curves(study, results)]
    parts += [_definitions(found), (STUDY / NOTES).read_text("utf-8").strip(), _sources(results)]
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
    """Claims that were chosen by their values say less, and our own say nothing of the paper: each is counted apart."""
    groups = {
        "of the paper and the slides": [one for one in found if not one.claim.post_hoc and not one.claim.ours],
        "our own": [one for one in found if not one.claim.post_hoc and one.claim.ours],
        POST_HOC: [one for one in found if one.claim.post_hoc],
    }
    counts = "\n".join(f"- {name}: {_counts(own)}" for name, own in groups.items() if own)
    return INTRODUCTION.format(counts=counts, confidence=study.confidence)


def _counts(found: Sequence[Finding]) -> str:
    verdicts = [finding.verdict for finding in found]
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in get_args(Verdict) if verdict in verdicts)


def _levels(study: Study, results: Mapping[str, Sequence[Row]]) -> str:
    lines = ["| level | setting | new in each replicate | replicates |", "|---|---|---|---|"]
    commands = []
    for name, level in study.levels.items():
        done = _replicates(level, results.get(name, []))
        needs = f", needs {level.needs}" if level.needs and name not in results else ""
        lines.append(f"| {name} | {level.title} | {level.drawn or ''} | {done}{needs} |")
        if level.preset:
            commands.append(f"cp {level.preset} params.yaml && epsilon-dpo study run {name}")
    block = ["```", *commands, "epsilon-dpo study page   # this page, from study/", "```"]
    block += ["", "What a preset leaves to you, such as where a model lies, is marked `SET THIS` in it."]
    return "\n".join([*lines, "", *block])


def _replicates(level: Level, rows: Sequence[Row]) -> str:
    return f"{len({row['seed'] for row in rows})} of {len(level.seeds)}" if level.preset else "not run"


def _table(study: Study, found: Sequence[Finding]) -> str:
    rows = ["## The claims", "", "| claim | where | level | measured [interval] | n | verdict |"]
    rows.append("|---|---|---|---|---|---|")
    for finding in found:
        claim = finding.claim
        n = str(len(finding.by_seed) or "")
        place = f"{claim.place}; {POST_HOC}" if claim.post_hoc else claim.place
        name, level = f"[{claim.claim}](#{claim.id})", claim.level or ""
        cells = (name, place, level, _measured(finding, claim.unit), n, _verdict(study, finding))
        rows.append(_row(cells))
    return "\n".join(rows)


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
        counted = {name: part.verdict for name, part in finding.parts.items() if part.share >= SMALLEST_PART}
        named = {said: [name for name, verdict in counted.items() if verdict == said] for said in DECIDED}
        return "; ".join(f"{said} {', '.join(names)}" for said, names in named.items())
    level = study.levels.get(finding.claim.level or "")
    if finding.verdict == "not run":
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
            f"## {study.levels[level].title}",
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
        of = [] if alike else [f"{part.share:.0%} of the budgets"]
        if part.n < len(finding.by_seed):
            of.append(f"in {part.n} of {len(finding.by_seed)} replicates")
        where = name.capitalize() + (f" ({', '.join(of)})" if of else "")
        said = f", {part.verdict}" if part.verdict in DECIDED else ""
        lines.append(f"- {where}: {_measured(part, '')}{said}.")
    return lines


def _sources(results: Mapping[str, Sequence[Row]]) -> str:
    lines = ["## Where the numbers come from"]
    for level in results:
        file = results_folder(level) / "policies.csv"
        lines += [
            "",
            f"Level {level}: [policies.csv](../{file}), a row per policy; replicates are alike in params.yaml"
            + _versions(level),
            "",
        ]
        lines += ["| seed | commit | torch | transformers | collected on |", "|---|---|---|---|---|"]
        for seed, made in known_replicates(level).items():
            commit = made["commit"][:10] + " with changes" * made["uncommitted_changes"]
            cells = (seed, commit, made["torch"], made["transformers"], made["collected_on"])
            lines.append(_row(cells))
    return "\n".join(lines) if results else ""


def _versions(level: str) -> str:
    """Replicates of several versions of the code also differ by what changed between these."""
    commits = len({made["commit"] for made in known_replicates(level).values()})
    return "." if commits == 1 else f", but made by {commits} versions of the code, so that their spread holds both."
