"""One more run per kind of edit, after a finished `dvc repro`: each edit re-runs its stages and no others.

`python docker/edits.py` in a copy of the project with presets/smoke.yaml as params.yaml, whose `dvc repro` is done; it
changes files of that copy. docker/pipeline.sh calls it. Before each run `epsilon-dpo plan --assert-only` must say that
nothing else would run; what then ran must be exactly `runs`. Edits add up, so that none has to be taken back in
between; in the end all are, which must bring back the hashes of dvc.lock, computing nothing. Last, one training runs
anew, without DVC's cache: where the first run was stopped in mid-training, this is what it is compared with.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

LOCK = Path("dvc.lock")
PER_RUN = ("align", "sample", "score", "kl", "monotonicity")
COMPARED = ("tournament", "figures", "report")  # the stages that compare all runs
TRAINED = "align@epsilon_dpo"


class Edit(NamedTuple):
    """`old` becomes `new` in `file` (an empty `old`: `new` is appended), and then the stages `runs` run, no others.

    `may`: globs of stages that would run only if a stage before them made other bytes, which it does not.
    """

    kind: str
    file: str
    old: str
    new: str
    runs: tuple[str, ...]
    may: tuple[str, ...] = ()


# A run is taken out before what makes all runs be scored again, which so costs less.
EDITS = (
    Edit("a preset that is not in use", "presets/noise.yaml", "", "# more\n", ()),
    Edit(
        "the tracker's code",
        "src/epsilon_dpo/pipeline/observability/tracker.py",
        "",
        "# more\n",
        ("check",),
    ),
    Edit(
        "a figure's code",
        "src/epsilon_dpo/report/figures/__init__.py",
        "",
        "# more\n",
        ("check", "figures"),
        ("report",),
    ),
    Edit(
        "a method's code",
        "src/epsilon_dpo/methods/tr_dpo.py",
        "",
        "# more\n",
        ("check", "scorer", "align@tr_dpo"),  # the scorer asks the methods which of them want scores
        (*(f"{stage}@tr_dpo" for stage in PER_RUN[1:]), *COMPARED),
    ),
    Edit(
        "the examples on the report",
        "params.yaml",
        "report: {examples: 6}",
        "report: {examples: 5}",
        ("check", "report"),
    ),
    Edit(
        "a run taken out",
        "params.yaml",
        "  tr_dpo: {method: tr_dpo, beta: 0.3, update: soft, alpha: 0.6, sync_steps: 32}\n",
        "",
        ("check", *COMPARED),
    ),
    Edit(
        "one run's number",
        "params.yaml",
        "dpo: {method: dpo, beta: 0.3}",
        "dpo: {method: dpo, beta: 0.2}",
        ("check", *(f"{stage}@dpo" for stage in PER_RUN), *COMPARED),
    ),
    Edit(
        "another judge",
        "params.yaml",
        "mismatched_share: 0.2",
        "mismatched_share: 0.25",
        ("check", "judge", "ranking", "margins", "scorer", "controls", "score@dpo", "score@epsilon_dpo", *COMPARED),
    ),
)


def command(*arguments: str) -> str:
    """What it printed; the whole program ends with it if it fails."""
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout[-4000:]}\nfailed: {' '.join(arguments)}")
    return done.stdout


def repro(*arguments: str) -> set[str]:
    """The stages that `dvc repro` ran; what it took from its cache is not among them."""
    lines = command("dvc", "repro", *arguments).splitlines()
    return {line.split("'")[1] for line in lines if line.startswith("Running stage")}


def expect(kind: str, ran: set[str], runs: set[str], since: float) -> None:
    if ran != runs:
        sys.exit(f"{kind}: ran beside those expected: {sorted(ran - runs)}; did not run: {sorted(runs - ran)}")
    print(f"{kind}: {', '.join(sorted(ran)) or 'nothing'} ({time.monotonic() - since:.0f} s)", flush=True)


def changed(edit: Edit) -> str:
    """The text of its file after `edit`."""
    text = Path(edit.file).read_text("utf-8")
    if not edit.old:
        return text + edit.new
    if text.count(edit.old) != 1:
        sys.exit(f"{edit.kind}: {edit.file} has {text.count(edit.old)} times, not once: {edit.old}")
    return text.replace(edit.old, edit.new)


def recorded() -> dict[str, Any]:
    """What dvc.lock holds, in whatever order: DVC appends a run that was taken out and comes back."""
    return YAML(typ="safe").load(LOCK)


def plan_allows(*globs: str) -> None:
    command(sys.executable, "-m", "epsilon_dpo.cli", "plan", "--assert-only", *globs)


def main() -> None:
    before = {edit.file: Path(edit.file).read_bytes() for edit in EDITS}
    lock = recorded()
    since = time.monotonic()
    expect("no edit", repro(), set(), since)
    try:
        for edit in EDITS:
            since = time.monotonic()
            Path(edit.file).write_text(changed(edit), "utf-8")
            plan_allows(*(edit.runs or ("none",)), *edit.may)
            expect(edit.kind, repro(), set(edit.runs), since)
    finally:
        for file, content in before.items():
            Path(file).write_bytes(content)
    since = time.monotonic()
    plan_allows("check", "none")
    expect("all edits taken back", repro(), {"check"}, since)
    since = time.monotonic()
    expect("one training anew", repro("--force", "--single-item", TRAINED), {TRAINED}, since)
    if recorded() != lock:
        sys.exit("dvc.lock has other hashes than before the edits")
    print("dvc.lock has the hashes of before the edits")


if __name__ == "__main__":
    main()
