"""The table and the amounts of a plan whose steps are written by hand."""

import sqlite3
from pathlib import Path

import pytest

from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.provenance.plan.amounts import seconds_of_stages, size_text, time_text
from epsilon_dpo.provenance.plan.causes import Cause
from epsilon_dpo.provenance.plan.steps import FROM_CACHE, MAY_RUN, RUN, UP_TO_DATE, Step
from epsilon_dpo.provenance.plan.table import accepting, names, table

ROOT = Path(__file__).resolve().parents[3]
BETA = Cause("param", "runs.a.beta", "runs.a.beta: 0.3 → 0.2")
COMMENT = Cause("file", "src/x.py", "src/x.py changed in comments, docstrings or layout only", harmless=True)


def step(name: str, action: str, *causes: Cause, after: tuple[str, ...] = (), like: str = "") -> Step:
    return Step(name, action, causes, after, False, 40.0, 1_500_000, like)


STEPS = [
    step("check", UP_TO_DATE),
    step("sft", FROM_CACHE, Cause("output", "out/sft", "its output is missing")),
    step("align@a", RUN, BETA),
    step("align@b", RUN, BETA, like="align@a"),
    step("score@a", MAY_RUN, after=("align@a",)),
    step("score@b", MAY_RUN, after=("align@b",)),
    step("kl@a", RUN, COMMENT),
    step("kl@b", UP_TO_DATE),
    step("report", MAY_RUN, after=("align@a", "align@b")),
]
TABLE = """\
3 of 9 stages would run (2 min, 4.5 MB last time), 3 may (2 min, 4.5 MB last time), 1 would come from DVC's cache.

            stages                                       time     disk  why
from cache  sft                                                 1.5 MB  its output is missing
run         align@*                                     ~80 s    ~3 MB  runs.a.beta: 0.3 → 0.2
may run     score@*                                      80 s     3 MB  follows align@RUN
run         kl@a                                         40 s   1.5 MB  src/x.py changed in comments, docstrings or
                                                                          layout only
may run     report                                       40 s   1.5 MB  follows align@*

may run: DVC skips it if what it reads keeps its bytes, or takes it from its run cache.

from cache: DVC restores what dvc.lock names, or the result of an earlier run with the same inputs.

No edit of these can change their results, so DVC can be told to accept it without a run:
  dvc commit -f kl@a
Given up: dvc.lock then names code that did not make these outputs. Run them before you publish.

dvc.lock also has align@c, which dvc.yaml no longer has: nothing runs for them, but stage check removes their folders
out/*/RUN."""


def test_stages_with_the_same_reasons_share_a_row() -> None:
    assert table(STEPS, ["align@c"]) == TABLE


def test_stage_check_removes_nothing_of_external() -> None:
    said = table(STEPS, ["external/dvc.yaml:answers@c"]).splitlines()[-1]
    assert said.endswith("external/dvc.yaml:answers@c, which dvc.yaml no longer has: nothing runs for them.")


def test_no_run_that_was_not_looked_at_is_accepted() -> None:
    """Of two that were asked about, a third would be, by the name of their group: `dvc commit -f align` takes all."""
    looked_at = [step("align@a", RUN, COMMENT), step("align@b", RUN, COMMENT)]
    assert accepting(looked_at, ["sft", "align@a", "align@b", "align@c"]) == "dvc commit -f align@a align@b"
    assert accepting(looked_at) == accepting(looked_at, ["align@a", "align@b"]) == "dvc commit -f align"


def test_one_of_many_runs_that_differs_leaves_the_others_a_number() -> None:
    runs = [step(f"align@r{n}", RUN, BETA) for n in range(100)]
    (row,) = (row for row in table([*runs, step("align@x", UP_TO_DATE)]).splitlines() if row.startswith("run"))
    assert "align@r0, align@r1, align@r2, and 97" in row


def test_a_row_of_one_run_names_it() -> None:
    steps = [step("align@a", RUN, BETA), step("score@a", MAY_RUN, after=("align@a",)), step("score@b", UP_TO_DATE)]
    assert "follows align@a" in table(steps)
    read = [step(f"kl@{run}", FROM_CACHE, Cause("read", f"out/align/{run}", "other bytes")) for run in "ab"]
    assert "other bytes in out/align/RUN" in table(read) and "other bytes in out/align/a" in table(read[:1])


def test_many_causes_are_counted() -> None:
    many = [Cause("param", f"a.{n}", f"a.{n}: 1 → 2") for n in range(7)]
    rows = table([step("sft", RUN, *many)]).splitlines()
    assert [row.split("MB", 1)[-1].strip() for row in rows[3:]] == [
        "a.0: 1 → 2",
        "a.1: 1 → 2",
        "a.2: 1 → 2",
        "and 4 more (--json has all)",
    ]


def test_a_group_is_named_only_if_all_of_it_is_chosen() -> None:
    every = ["align@a", "align@b", "score@a"]
    assert names(["align@a", "align@b", "score@a"], every) == ["align@*", "score@a"]
    assert names(["align@a"], every) == ["align@a"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e6, "2.5 MB"), (5.2e9, "5.2 GB"), (1.64e12, "1.64 TB")],
        *[(999_499, "999 kB"), (999_500, "1 MB"), (999_700_000, "1 GB")],  # and not 1e+03 of the smaller unit
    ],
)
def test_sizes(value: float, text: str) -> None:
    assert size_text(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.4, "0 s"), (89, "89 s"), (130, "2 min"), (9000, "2.5 h")])
def test_times(value: float, text: str) -> None:
    assert time_text(value) == text


def a_store(root: Path, rows: list[tuple]) -> None:
    (root / "mlruns").mkdir()
    with sqlite3.connect(root / "mlruns/mlflow.db") as store:
        store.executescript(
            "CREATE TABLE experiments (experiment_id INTEGER, name TEXT);"
            "CREATE TABLE tags (key TEXT, value TEXT, run_uuid TEXT);"
            "CREATE TABLE runs (run_uuid TEXT, name TEXT, status TEXT, start_time INTEGER, end_time INTEGER,"
            " lifecycle_stage TEXT, experiment_id INTEGER);"
            "INSERT INTO experiments VALUES (1, 'epsilon-dpo'), (2, 'another');"
            "INSERT INTO tags VALUES ('rebuilt', 'true', 'r4')"
        )
        store.executemany("INSERT INTO runs VALUES (?, ?, ?, ?, ?, 'active', ?)", rows)
    store.close()


def test_the_last_complete_run_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    a_store(
        tmp_path,
        [
            ("r2", "sft", "FINISHED", 5000, 12000, 1),
            ("r1", "sft", "FINISHED", 1000, 2000, 1),
            ("r3", "sft", "FAILED", 20000, 21000, 1),
            ("r4", "align@a", "FINISHED", 20000, 20001, 1),
            ("r5", "kl@a", "FINISHED", 20000, 21000, 2),
        ],
    )
    assert seconds_of_stages(tmp_path) == {"sft": 7.0}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert seconds_of_stages(tmp_path) == {}


def test_nobody_knows_without_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert seconds_of_stages(tmp_path) == {} and not list(tmp_path.iterdir())
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns/mlflow.db").write_text("no database")
    assert seconds_of_stages(tmp_path) == {}


def test_the_plan_of_a_comment_on_the_page_is_that_of_dvc_yaml() -> None:
    """Which stages depend on a method's file; what they took last time is as the page has it."""
    file = "src/epsilon_dpo/methods/epsilon_dpo.py"
    comment = Cause("file", file, f"{file} changed in comments, docstrings or layout only", harmless=True)
    steps: list[Step] = []
    for stage, entry in read_yaml(ROOT / "dvc.yaml")["stages"].items():
        for run in ("dpo", "epsilon_dpo", "tr_dpo") if "foreach" in entry else ("",):  # the default's, by their methods
            deps = [dep.replace("${item.method}", run) for dep in entry.get("do", entry)["deps"]]
            reads = any(dep == file or f"{dep}/" == file[: len(dep) + 1] for dep in deps)
            cost = (20.0, 1_050_000) if stage == "check" else (0.0, 0)
            action, causes = (RUN, (comment,)) if reads else (UP_TO_DATE, ())
            steps.append(Step(f"{stage}@{run}" if run else stage, action, causes, (), False, *cost, ""))
    printed = table(steps).replace(f"of {len(steps)} stages", "of 31 stages")  # a stage of your own may be one more
    assert printed in (ROOT / "docs/howto.md").read_text("utf-8")
