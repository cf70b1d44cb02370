"""docs/replication.md: every claim with what was measured and the verdict, from study/ and nothing else."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import get_args

import numpy as np

from epsilon_dpo.analysis.intervals.rates import standard_error
from epsilon_dpo.mlflow_writer.identity import recipe
from epsilon_dpo.pipeline.stage.files import Row, write_json
from epsilon_dpo.study.claims import STUDY, Claim, Former, Level, Study, Verdict, read_study
from epsilon_dpo.study.collect import known_replicates, read_results, results_folder
from epsilon_dpo.study.sentences import STANDINGS, before, follows, now, standing
from epsilon_dpo.study.summary import by_recipe, summarise, values_of
from epsilon_dpo.study.verdicts import SMALLEST_PART, Answer, Finding, findings

PAGE = Path("docs/replication.md")
VERDICTS = "verdicts.json"  # below study/, for the report
NOTES = "notes.md"  # what a person wrote: what surprised, what broke
INTRODUCTION = """# What is true of ε-DPO

This page tests claims of the ε-DPO paper ([arXiv 2502.13177](https://arxiv.org/abs/2502.13177)), of the slides on DPO
that [rlhf.md](rlhf.md) replicates, and our own. Each claim has a value, its {confidence:.0%} interval and a verdict."""
STARRED = r"\*: the rows that hold do so mostly or entirely by a definition or by rounding, whatever the methods do."
SENTENCES = """A sentence has a row for each setting, variant and judge in which it is measured. The first column has
the definitions and the rule that stood when the first values of a row's level were committed, without rows that were
added since. The second column has the rows of this page. A row that is not run says nothing in either."""
BUDGETS = """## <a id="ranges-of-budgets"></a>The range of budgets

A comparison at an equal KL budget is a mean over budgets from 0 to the smaller of the two methods' largest KLs. This
range stood when the first values were committed, and it gives the verdict. But its end is arbitrary: it is where the
smallest β happens to lie, and beyond both methods' best policies every budget has the same difference, that of these
two policies. So the same mean is given over two other ranges, which were chosen after a look at the values: from 0 to
the later best policy's KL, and from the least KL at which both methods have policies up to there. Where that is beyond
both best policies, the difference is that of these two.

Below the least KL of a method its curve is a mixture with the reference. So the first other range rewards the method
whose smallest KL is lower, which is a matter of the largest β that was trained. The second leaves this part out, and
rests on few policies of each method. Where the three give different verdicts, the verdict depends on the
range. More replicates would narrow each interval, and not choose between them. Trainings would: at β above 1, so that
each method has policies at small KLs, and at more β near the best policy, so that the best one is not that of a coarse
grid.

Level `budgets` has such trainings, and a range that depends neither on the grid nor on its own values: .75 to 3 nats.
Its β, its [claims](#budgets_epsilon_dpo_over_dpo) and this range were fixed on 30 November 2026, before any replicate
of it was begun, so that no verdict of it could choose its range. They were chosen from the policies of level
`controlled`, and its seeds are others."""
READING = """## How to read a verdict

- A claim **holds** if its interval lies entirely on the side that the claim names, and **fails** if it lies entirely on
  the other side. It is **undecided at this n** if the interval reaches both sides.
- It is **mixed** if by the same rule it holds in one part of what is averaged, such as at one β, and fails in another.
  The mean then depends on the choice of β as much as on the methods, and more replicates would not decide it. What
  the interval of the mean alone says stands beside it. This rule came on 29 November 2026, 21:51 (400749ac): after the
  values of levels `controlled` and `rlhf` and one replicate of `smollm2`, and before the other levels were run.
- *n* is the number of replicates. Each has another seed and gives one value; the interval is Student's t for their
  mean.
- Fewer than three replicates decide nothing, nor does a difference of win rates smaller than half a prompt. While
  replicates are missing, a verdict is preliminary.
- A part of a mean decides nothing where a replicate lacks it, and makes no claim mixed where it is less than 5% of the
  mean. This rule and the one before came after the first values, too; no verdict of this page would be another without
  them.
- An interval is for its claim alone: of twenty claims where no difference exists, about one will look decided.
- *Formerly* stands beside a claim whose definition, rule or owner was changed after its values had been seen. Its
  definition says when, why, and what it was.

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
STATE_AGAIN = "To be stated anew: a verdict is no longer the one that `found` of study/claims.yaml was written for."
OURS = "our own"
POST_HOC = "added or defined anew after a look at the values"


def page() -> str:
    """The page as Markdown."""
    study, results, found = _read()
    parts = [
        INTRODUCTION.format(confidence=study.confidence),
        _found(study, found),
        _in_short(study, found),
        _sentences(study, found),
        _changed(found),
        _rests_on(study, found),
        READING,
        BUDGETS if any(finding.ranges for finding in found) else "",
        _levels(study, results),
        _table(study, found),
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
        | _ends(finding)
        | {"n": len(finding.by_seed)}
        | {"verdict": finding.verdict, "note": _note(study, finding)}
        | {"ranges": [{"budgets": name, "verdict": at.verdict} | _ends(at) for name, at in finding.ranges.items()]}
        for finding in found
    ]
    return {"confidence": study.confidence, "levels": levels, "claims": claims}


def _read() -> tuple[Study, dict[str, list[Row]], list[Finding]]:
    study = read_study()
    results = {level: rows for level in study.levels if (rows := read_results(level))}
    return study, results, findings(study, results)


def _ends(found: Answer) -> Row:
    return {name: _rounded(getattr(found, name)) for name in ("value", "low", "high")}


def _rounded(value: float | None) -> float | None:
    """Finer than the page shows, so that both round alike; the last digits of a sum are the processor's."""
    return None if value is None else round(value, 6)


def _found(study: Study, found: Sequence[Finding]) -> str:
    """What a reader of one minute must know: a person's sentences, unless the verdicts that he saw are others now, and
    what a range decides."""
    verdicts = {finding.claim.id: finding.verdict for finding in found}
    said = [
        one.says if all(verdicts[id_] == seen for id_, seen in one.seen.items()) else STATE_AGAIN for one in study.found
    ]
    items = (f"- {sentence}" for sentence in (*said, _by_range(found)) if sentence)
    return "\n".join(fill(item, 120, subsequent_indent="  ", break_on_hyphens=False) for item in items)


def _sentences(study: Study, found: Sequence[Finding]) -> str:
    """Which questions of `_in_short` have which standing, by number."""
    if not study.in_short:
        return ""
    of = {finding.claim.id: finding for finding in found}
    numbered = list(enumerate(study.in_short, start=1))
    columns = {
        name: [(standing(rows(row, of)), _number(number, rows(row, of))) for number, row in numbered]
        for name, rows in (("as defined when the first values were committed", before), ("as defined now", now))
    }
    title = f"of {len(study.in_short)} sentences of the paper and the slides"
    table = ["## How many sentences hold", "", _row((title, *columns)), "|---" * (1 + len(columns)) + "|"]
    for one in STANDINGS:
        named = [[number for stands, number in column if stands == one] for column in columns.values()]
        if any(named):
            cells = (f"**{len(those)}**: no. {', '.join(those)}" if those else "0" for those in named)
            table.append(_row((_said(one), *cells)))
    return "\n".join([*table, "", SENTENCES])


def _number(number: int, rows: Sequence[tuple[Claim, Verdict]]) -> str:
    """A link to the question's row of `_in_short`."""
    return f"[{number}{_star(rows)}](#no-{number})"


def _star(rows: Sequence[tuple[Claim, Verdict]]) -> str:
    return r"\*" if follows(rows) else ""


def _changed(found: Sequence[Finding]) -> str:
    """The history of definitions, as far as values may have chosen them."""
    parts = [part for part in (_defined_anew(found), _unknown(found)) if part]
    return "\n\n".join(["## Definitions that were changed", *parts]) if parts else ""


def _defined_anew(found: Sequence[Finding]) -> str:
    """What claims said before they were defined anew, values having been seen."""
    changed = [(one, one.claim.before) for one in found if one.claim.before is not None]
    if not changed:
        return ""
    rows = []
    for finding, was in sorted(changed, key=lambda pair: pair[1].ours):
        then, today = (_owned(ours) for ours in (was.ours, finding.claim.ours))
        name = f"[{finding.claim.claim}](#{finding.claim.id})"
        rows.append(_row((name, f"{then}: {_former(was)}", f"{today}: {_said(finding.verdict)}", was.until)))
    head = ["**Defined anew after values had been seen**, with what each had said before:", ""]
    return "\n".join([*head, "| claim | before | now | changed |", "|---|---|---|---|", *rows])


def _owned(ours: bool) -> str:
    return "ours" if ours else "the paper's"


def _former(was: Former) -> str:
    """Verdict and value, as far as the rows have them."""
    said = _said(was.verdict) if was.verdict else "verdict not known"
    return ", ".join(part for part in (said, was.measured) if part)


def _unknown(found: Sequence[Finding]) -> str:
    """The verdicts that would be others by definitions of which history does not tell whether values chose the next."""
    changed = [(one, was) for one in found for was in one.claim.formerly if was.values == "unknown"]
    if not changed:
        return ""
    claims = {finding.claim.id for finding, _ in changed}
    others = [
        f"- [{finding.claim.claim}](#{finding.claim.id}) {_owned(was.ours).capitalize()}: {_former(was)}."
        for finding, was in changed
        if was.verdict not in (None, finding.alone)
    ]
    return (
        f"**History does not tell** of {len(claims)} claims whether values had been seen when their definition was\n"
        "changed before the first ones were committed; their definitions say what is known. By the definition before\n"
        "that, the rows of today would give another verdict to these:\n\n" + ("\n".join(others) or "- none.")
    )


def _by_range(found: Sequence[Finding]) -> str:
    compared = [finding for finding in found if finding.ranges]
    if not compared:
        return ""
    verdicts = sum(finding.verdict_by_range for finding in compared)
    signs = sum(finding.sign_by_range and not finding.verdict_by_range for finding in compared)
    return (
        f"Of {len(compared)} comparisons at an equal KL budget, {verdicts} get another verdict over another range of "
        f"budgets, and {signs} more another sign ([why](#ranges-of-budgets)). More replicates would not settle these. "
        "The tables mark them."
    )


def _said(verdict: str) -> str:
    """A verdict in a table."""
    return "holds by a test" if verdict == "by a test" else verdict


def _counts(found: Sequence[Finding]) -> str:
    """How many rows have which verdict."""
    verdicts = [said for said in get_args(Verdict) if any(finding.verdict == said for finding in found)]
    rows = [_row(("rows", *map(_said, verdicts))), "|---" * (1 + len(verdicts)) + "|"]
    for name, own in _groups(found).items():
        rows.append(_row((name, *(str(sum(one.verdict == said for one in own)) for said in verdicts))))
    return "\n".join(rows)


def _groups(found: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Claims that were chosen by their values say less, and our own say nothing of the paper: each is counted apart."""
    groups = {
        "of the paper and the slides": [one for one in found if not one.claim.post_hoc and not one.claim.ours],
        OURS: [one for one in found if not one.claim.post_hoc and one.claim.ours],
        POST_HOC: [one for one in found if one.claim.post_hoc],
    }
    return {name: own for name, own in groups.items() if own}


def _in_short(study: Study, found: Sequence[Finding]) -> str:
    """A person's answers, unless the verdicts that he saw are others now. Each links what it rests on."""
    if not study.in_short:
        return ""
    of = {finding.claim.id: finding for finding in found}
    rows = ["## In short", "", "| no. | question | answer |", "|---|---|---|"]
    for number, row in enumerate(study.in_short, start=1):
        still = row.seen == [of[id_].verdict for id_ in row.claims.values()]
        answer = row.answer if still else ANSWER_AGAIN
        anchor, star = f'<a id="no-{number}"></a>', _star(now(row, of))
        rows.append(_row((f"{anchor}[{number}{star}](#values-{number})", row.question, answer)))
    return "\n".join([*rows, "", STARRED])


def _rests_on(study: Study, found: Sequence[Finding]) -> str:
    """The study's values, question by question of `_in_short`."""
    if not study.in_short:
        return ""
    of = {finding.claim.id: finding for finding in found}
    rows = ["## What each answer rests on", "", "| no. | verdict, value [interval], n |", "|---|---|"]
    for number, row in enumerate(study.in_short, start=1):
        measured = "<br>".join(f"{name}: {_briefly(study, of[id_])}" for name, id_ in row.claims.items())
        rows.append(_row((f'<a id="values-{number}"></a>{_number(number, now(row, of))}', measured)))
    return "\n".join(rows)


def _briefly(study: Study, finding: Finding) -> str:
    parts = [f"[{_said(finding.verdict)}](#{finding.claim.id})", _measured(finding, finding.claim.unit)]
    n = f"n {len(finding.by_seed)}" if finding.by_seed else ""
    said = ", ".join(part for part in (*parts, n) if part)
    ours = ["our own claim"] if finding.claim.ours else []
    late = ["added after a look at the values"] if finding.claim.post_hoc and finding.claim.before is None else []
    return "; ".join([said, *ours, *late, *_marks(study, finding)])


def _marks(study: Study, finding: Finding) -> list[str]:
    """What a reader of the verdict must know beside it."""
    claim, marks = finding.claim, []
    level = study.levels.get(claim.level or "")
    if level and level.caution and finding.by_seed:
        marks.append(level.caution)
    if claim.follows_from and finding.verdict == "holds":
        marks.append(f"expected from {claim.follows_from}")
    if claim.before is not None:
        marks.append(f"formerly ({_owned(claim.before.ours)}) {_former(claim.before)}")
    if finding.verdict_by_range:
        marks.append("the verdict depends on the range of budgets")
    elif finding.sign_by_range:
        marks.append("the sign depends on the range of budgets")
    return marks


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
    parts.append(_counts(found))
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
    """Why there is no verdict, what a mixed one is of, and what else must be known beside it; else empty."""
    if finding.verdict == "mixed":
        parts = [(name, part.verdict) for name, part in finding.parts.items() if part.share >= SMALLEST_PART]
        named = {said: ", ".join(name for name, verdict in parts if verdict == said) for said in DECIDED}
        of_parts = (f"{said} {names}" for said, names in named.items())
        return "; ".join([*of_parts, f"the mean alone: {finding.alone}", *_marks(study, finding)])
    if finding.verdict == "not run":
        level = study.levels.get(finding.claim.level or "")
        needs = finding.claim.needs or (level and level.needs)
        return f"needs {needs}" if needs else f"`epsilon-dpo study run {finding.claim.level}` runs it"
    if finding.missing:
        seed, why = next(iter(finding.missing.items()))
        return f"seed {seed}, {why}"
    return "; ".join(_marks(study, finding))


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
        lines += _ranges(finding)
        lines += [_formerly(was) for was in claim.formerly]
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


def _ranges(finding: Finding) -> list[str]:
    """The same comparison over other ranges of budgets, and whether these decide it."""
    lines = []
    for name, answer in finding.ranges.items():
        said = f", {answer.verdict}" if answer.verdict in DECIDED else ""
        lines.append(f"- Over budgets {name}: {_measured(answer, '')}{said}.")
    if finding.verdict_by_range or finding.sign_by_range:
        what = "verdict" if finding.verdict_by_range else "sign"
        lines.append(
            f"- **The {what} depends on the [range of budgets](#ranges-of-budgets) that is averaged**: more replicates "
            "would not settle it, trainings at other β would."
        )
    return lines


def _formerly(was: Former) -> str:
    seen = "after values had been seen" if was.values == "seen" else "perhaps after values had been seen"
    return (
        f"- Formerly {_owned(was.ours)}, until {was.until}, and changed {seen}: {was.was}; {_former(was)}. {was.why}."
    )


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
