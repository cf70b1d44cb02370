"""docs/replication.md: every claim with what was measured and the verdict, from study/ and nothing else."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from epsilon_dpo.pipeline.runs.runs import FINAL
from epsilon_dpo.pipeline.stage.files import Row, read_json
from epsilon_dpo.study.claims import STUDY, Study, read_study
from epsilon_dpo.study.collect import read_results, results_folder
from epsilon_dpo.study.verdicts import Finding, findings

PAGE = Path("docs/replication.md")
NOTES = "notes.md"  # what a person wrote: what surprised, what broke
MARKS = {"holds": "**holds**", "fails": "**fails**", "undecided at this n": "undecided at this n", "not run": "not run"}


def page(study_folder: Path = STUDY) -> str:
    """The page as Markdown."""
    study = read_study(study_folder)
    results = {level: rows for level in study.levels if (rows := read_results(level, study_folder))}
    found = findings(study, results)
    parts = [_head(study, results, found), _table(study, found), _curves(study, results), _definitions(found)]
    parts += [(study_folder / NOTES).read_text("utf-8").strip(), _sources(results, study_folder)]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_page(study_folder: Path = STUDY, file: Path = PAGE) -> Path:
    """The page in `file`, which is returned."""
    file.write_text(page(study_folder), "utf-8")
    return file


def _head(study: Study, results: Mapping[str, Sequence[Row]], found: Sequence[Finding]) -> str:
    counts = {verdict: sum(finding.verdict == verdict for finding in found) for verdict in MARKS}
    said = ", ".join(f"{number} {MARKS[verdict]}" for verdict, number in counts.items() if number)
    lines = [
        "# What is true of ε-DPO",
        "",
        f"Each claim of the paper, what we measured, and a verdict. Of {len(found)} claims: {said}. A claim holds "
        f"where the interval ({study.confidence:.0%}, of each claim by itself) lies on the side that it names, fails "
        "where it lies on the other, and is undecided where it reaches to both. *n* counts replicates: data, "
        "reference, judge and trainings are new in each.",
        "",
        "```",
        "cp presets/study-controlled.yaml params.yaml",
        "epsilon-dpo study run controlled   # what is missing of its replicates; killed, it goes on",
        "epsilon-dpo study page             # this page, from study/claims.yaml, study/results and study/notes.md",
        "```",
        "",
        "| level | setting | replicates |",
        "|---|---|---|",
    ]
    for name, level in study.levels.items():
        seeds = sorted({int(row["seed"]) for row in results.get(name, [])})
        done = f"{len(seeds)} of {len(level.seeds)}" if level.seeds else f"not run: needs {level.needs}"
        lines.append(f"| {name} | {level.title} | {done} |")
    return "\n".join(lines)


def _table(study: Study, found: Sequence[Finding]) -> str:
    rows = ["## The claims", "", "| claim | where | measured [interval] | n | verdict |", "|---|---|---|---|---|"]
    for finding in found:
        claim = finding.claim
        n = str(len(finding.by_seed) or "")
        cells = (f"[{claim.claim}](#{claim.id})", claim.place, _measured(finding), n, _verdict(study, finding))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _measured(finding: Finding) -> str:
    if finding.value is None:
        return ""
    interval = "" if finding.low is None else f" [{finding.low:+.3f}, {finding.high:+.3f}]"
    return f"{finding.value:+.3f}{interval} {finding.claim.unit}".strip()


def _verdict(study: Study, finding: Finding) -> str:
    if finding.claim.test is not None:
        return f"**holds** (by [a test](../{finding.claim.test.partition('::')[0]}))"
    level = study.levels.get(finding.claim.level or "")
    needs = finding.claim.needs or (level and level.needs)
    return f"not run: needs {needs}" if finding.verdict == "not run" and needs else MARKS[finding.verdict]


def _curves(study: Study, results: Mapping[str, Sequence[Row]]) -> str:
    parts = []
    for level, rows in results.items():
        lines = [
            f"## {study.levels[level].title}",
            "",
            "Means over replicates ± standard error: KL(reference || policy) in nats, wins over the chosen answers.",
            "",
            "| recipe | β | KL | true win rate | judge's win rate |",
            "|---|---|---|---|---|",
        ]
        final = [row for row in rows if row["place"] == FINAL]
        cells = dict.fromkeys((row["recipe"], row["beta"]) for row in final)
        for recipe, beta in cells:
            own = [row for row in final if (row["recipe"], row["beta"]) == (recipe, beta)]
            values = " | ".join(_mean(own, column) for column in ("kl", "win_rate_true", "win_rate_judge"))
            lines.append(f"| {_name(recipe)} | {beta} | {values} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _name(recipe: str) -> str:
    entry = json.loads(recipe)
    return ", ".join([entry.pop("method"), *(f"{key} {value}" for key, value in entry.items())])


def _mean(rows: Sequence[Row], column: str) -> str:
    values = np.array([float(row[column]) for row in rows if row[column] != ""])
    if not len(values):
        return ""
    error = f" ± {values.std(ddof=1) / np.sqrt(len(values)):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{error}"


def _definitions(found: Sequence[Finding]) -> str:
    parts = ["## Definitions"]
    for finding in found:
        claim = finding.claim
        lines = [f'### <a id="{claim.id}"></a>{claim.claim}', "", f"- Measured: {claim.definition}."]
        lines.append(f"- Refuted by {claim.refuted_by}.")
        if finding.by_seed:
            values = ", ".join(f"{seed}: {value:+.4f}" for seed, value in finding.by_seed.items())
            lines.append(f"- By seed: {values}.")
        if claim.test:
            lines.append(f"- Held by `{claim.test}`.")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _sources(results: Mapping[str, Sequence[Row]], folder: Path) -> str:
    lines = ["## Where the numbers come from"]
    for level in results:
        file = results_folder(level, folder) / "policies.csv"
        lines += ["", f"Level {level}: [policies.csv](../{file}), a row per policy.", ""]
        lines += ["| seed | commit | torch | transformers | processor | params.yaml |", "|---|---|---|---|---|---|"]
        for seed, made in read_json(file.with_name("replicates.json")).items():
            commit = made["commit"][:10] + " with changes" * (made["uncommitted_changes"] == "true")
            cells = (seed, commit, made["torch"], made["transformers"], made["processor"], made["params_sha256"][:10])
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if results else ""
