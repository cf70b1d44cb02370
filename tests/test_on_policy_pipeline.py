"""presets/on-policy.yaml, cut down to a minute: the reference's own answers from their sampling to the report.

It is also the pipeline in which most stages have something to read, so the data that `deps` declare are proven on it.
"""

import json
import math
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from data_deps import DECOY, Alone, contents, run_alone, stage_forks
from whole_pipeline import (
    BIN,
    ROOT,
    TRACKED,
    all_stages,
    copy_project,
    dvc,
    environment,
    metrics_of,
    repro,
    with_preset,
)

from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl
from epsilon_dpo.pipeline.stage.params import read_yaml

pytestmark = pytest.mark.slow

PROMPTS = 48
RUN, ONLINE = "madpo", "rloo"
SMALL: dict[str, Any] = {
    "fetch.train_pairs": 1000,
    # What this few steps can learn: which answer the label prefers, and not also which one belongs to the question.
    **{
        "judge.max_steps": 90,
        "judge.learning_rate": 2e-3,
        "judge.mismatched_first": 0.0,
        "judge.mismatched_share": 0.0,
    },
    "sft.max_steps": 60,
    "candidates.max_prompts": PROMPTS,
    "sample.max_prompts": 40,
    "tournament.max_prompts": 20,
    "margins": {"source": "judge", "temperature": None},
    "scorer": {"source": "true_reward"},
    # Of a method that reads the margins, and of one that reads the scorer; figures reads metrics and snapshots.
    "runs": {
        RUN: {"method": "madpo", "beta": 0.3, "tau": 2.0, "snapshot_epochs": 0.5},
        ONLINE: {"method": "rloo", "beta": 0.05, "k": 2, "prompts_per_step": 16, "steps": 4, "max_new_tokens": 32},
    },
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = copy_project(tmp_path_factory.mktemp("on_policy"), tracked=True)
    with_preset(project, "on-policy", SMALL)
    assert set(repro(project)) == all_stages(project)
    return project


@pytest.mark.campaign  # below, each stage is run again by itself and makes the same bytes
def test_the_same_commit_gives_the_same_lock_without_a_tracking_store(project: Path, tmp_path: Path) -> None:
    """Another directory, and an MLflow server that does not answer: not a byte of dvc.lock differs."""
    other = copy_project(tmp_path / "other")
    with_preset(other, "on-policy", SMALL)
    repro(other)
    assert (other / "dvc.lock").read_text() == (project / "dvc.lock").read_text()


def rows(project: Path, name: str) -> list[dict[str, Any]]:
    return read_jsonl(project / "out" / name)


def text_of(pair: dict[str, Any], side: str) -> str:
    return str(pair[side][0]["content"])


def test_pairs_are_candidates_of_their_prompt_with_the_judges_scores(project: Path) -> None:
    asked: dict[str, set[str]] = {}
    for sample in rows(project, "candidates/samples.jsonl"):
        asked.setdefault(sample["row_id"], set()).add(sample["response"])
    assert len(asked) == PROMPTS and max(len(answers) for answers in asked.values()) == 4
    ranked = {row["id"]: row for row in rows(project, "ranking/ranked.jsonl")}
    prompts = {row["id"]: row["prompt"] for row in rows(project, "validate/train.jsonl")}
    pairs = rows(project, "pairs/train_text.jsonl")
    assert len(pairs) > 2 * PROMPTS, "all pairs of four answers, not one of each prompt"
    for pair in pairs:
        id_ = pair["id"].rpartition("/")[0]
        chosen, rejected = text_of(pair, "chosen"), text_of(pair, "rejected")
        assert chosen != rejected and {chosen, rejected} <= asked[id_]
        assert pair["prompt"] == prompts[id_]
        scores = dict(zip(ranked[id_]["answers"], ranked[id_]["scores"], strict=True))
        assert (pair["chosen_score"], pair["rejected_score"]) == (scores[chosen], scores[rejected])
        assert pair["chosen_score"] - pair["rejected_score"] >= 0.5


def test_every_pair_of_answers_is_trained_on_or_named(project: Path) -> None:
    pairs, dropped = rows(project, "pairs/train_text.jsonl"), rows(project, "pairs/dropped.jsonl")
    possible = [math.comb(len(row["answers"]), 2) for row in rows(project, "ranking/ranked.jsonl")]
    assert len(pairs) + len(dropped) == sum(possible)
    assert {pair["reason"] for pair in dropped} <= {"tied", "below_min_margin"}
    batch = read_yaml(project / "params.yaml")["align"]["batch_size"]
    steps = metrics_of(project, f"align/metrics/{RUN}")["steps"]
    assert steps == math.ceil(len(pairs) / batch), "one epoch of these pairs"


def test_the_policy_learns_these_pairs_and_is_reported(project: Path) -> None:
    """The order that the judge gave is learnt, and the answers move to the judge's taste."""
    steps = rows(project, f"align/metrics/{RUN}/metrics.jsonl")
    assert max(step.get("rewards/accuracies", 0.0) for step in steps) > 0.6
    report = json.loads((project / "out/report/summary.json").read_text("utf-8"))
    assert list(report["runs"]) == [RUN, ONLINE]
    page = (project / "out/report/report.html").read_text("utf-8")
    figures = read_json(project / "out/figures/figures.json")
    assert "pareto" in [figure["name"] for figure in figures]
    assert all(figure["title"].replace("'", "&#39;") in page for figure in figures)
    assert metrics_of(project, f"score/{RUN}")["win_rate/sft"] > 0.5


def test_margins_are_those_of_the_answers_the_policy_is_trained_on(project: Path) -> None:
    """On-policy pairs are the judge's own choice, so it finds the chosen answers better."""
    pairs, margins = rows(project, "pairs/train.jsonl"), rows(project, "margins/train.jsonl")
    assert [pair["id"] for pair in pairs] == [row["id"] for row in margins]
    apart = [row["chosen_score"] - row["rejected_score"] for row in margins]
    metrics = metrics_of(project, "margins")
    assert sum(margin > 0.0 for margin in apart) > 0.9 * len(apart)
    assert metrics["train/mean_abs"] == pytest.approx(sum(map(abs, apart)) / len(apart))
    assert metrics["temperature"] > 0.0 and 0.5 < metrics["eval/accuracy"] < 1.0
    assert metrics["eval/nll"] < math.log(2.0), "better than no judge at all"
    weights = [step["madpo/weight"] for step in rows(project, f"align/metrics/{RUN}/metrics.jsonl") if "loss" in step]
    assert all(0.5 < weight <= (1.0 + math.sqrt(2.0)) / 2.0 for weight in weights) and len(set(weights)) > 1


STAGES = list(read_yaml(ROOT / "dvc.yaml")["stages"])
# Declared for the order alone: the dataset is fetched after every number has been checked.
FOR_THE_ORDER = {"fetch": {"out/check/passed.txt"}}
# Copied, and named below a figure, where the judge scores single answers, which this preset's does not
# (tests/stages/test_scorer_stage.py, tests/report/figures/test_over_optimisation.py).
FOR_A_SCALAR_JUDGE = {stage: {"out/teacher"} for stage in ("scorer", "figures")}
LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear", "quantise": None}
ADAPTERS: dict[str, Any] = {
    **{f"{stage}.{key}": value for stage in ("sft", "align") for key, value in {"lora": LORA, "max_steps": 2}.items()},
    "candidates.max_prompts": 4,
    "sample.max_prompts": 4,
}


@pytest.fixture(scope="module")
def forks() -> Iterator["subprocess.Popen[str]"]:
    with stage_forks() as process:
        yield process


@pytest.fixture(scope="module")
def alone(forks: "subprocess.Popen[str]", project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Alone]:
    """Every stage once more, each with its declared data and no other."""
    root = tmp_path_factory.mktemp("alone")
    done = {stage: run_alone(forks, project, root / stage, stage, RUN) for stage in STAGES}
    return done | {ONLINE: run_alone(forks, project, root / ONLINE, "align", ONLINE)}


@pytest.fixture(scope="module")
def with_adapters(
    forks: "subprocess.Popen[str]", project: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Alone]:
    """The stages that use a policy, where each is an adapter and lies on its base."""
    root = tmp_path_factory.mktemp("adapters")
    for name in ("src", "stages", "presets", "dvc.yaml", "pins.yaml"):
        (root / name).symlink_to(project / name)
    shutil.copytree(project / "out", root / "out", copy_function=os.link)
    with_preset(root, "on-policy", SMALL | ADAPTERS)
    done = {}
    for stage in ("sft", "candidates", "reference", "align", "sample", "kl", "monotonicity"):
        folder = root / f"alone_{stage}"
        done[stage] = run_alone(forks, root, folder, stage, RUN)
        shutil.rmtree(root / "out" / stage)
        (folder / "out" / stage).rename(root / "out" / stage)
    return done


@pytest.mark.parametrize("stage", [*STAGES, ONLINE])
def test_a_stage_makes_the_same_of_its_declared_data_alone(project: Path, alone: dict[str, Alone], stage: str) -> None:
    """Else it reads data that DVC does not know of, and keeps a stale result when they change."""
    assert alone[stage].made and alone[stage].made == contents(project, alone[stage].paths)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_all_data_that_it_declares(
    alone: dict[str, Alone], with_adapters: dict[str, Alone], stage: str
) -> None:
    """Else it runs again for nothing. An adapter's base is read only where there are adapters."""
    unread = alone[stage].unread
    assert DECOY in unread
    if stage in with_adapters:
        unread = unread & with_adapters[stage].unread
    if stage == "align":  # pairs and margins the one run, the scorer the other
        unread = unread & alone[ONLINE].unread
    assert unread - {DECOY} == FOR_THE_ORDER.get(stage, set()) | FOR_A_SCALAR_JUDGE.get(stage, set())


def test_an_online_run_learns_from_the_scores_of_its_own_answers(project: Path) -> None:
    asked = rows(project, "scorer/rloo/train_prompts.jsonl")
    assert len(asked) == len({str(row["prompt_ids"]) for row in asked}) > 0.9 * PROMPTS
    metrics = metrics_of(project, f"align/metrics/{ONLINE}")
    assert metrics["steps"] == 4 and -3.0 < metrics["eval_reward"] <= 3.0
    assert metrics_of(project, f"kl/{ONLINE}")["kl_rev_rb"] >= 0.0


def test_a_second_judge_scores_the_policies_that_the_first_taught(project: Path, tmp_path: Path) -> None:
    """As docs/howto.md says: once the first is the teacher nothing is trained or sampled again."""
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, symlinks=True)
    (copy / TRACKED).unlink()
    taught = ("ranking", "pairs", "margins", "scorer", "align", "reference", "sample", "kl", "monotonicity")
    kept = {name: contents(copy, [f"out/{name}"]) for name in taught}
    blocks = {"judge": {"source": "sentiment", "classifier": "vader", "clip": 4.0}}
    with_preset(copy, "on-policy", SMALL | blocks | {"teacher": read_yaml(project / "params.yaml")["judge"]})
    scores = {f"score@{run}" for run in (RUN, ONLINE)}
    judged = {"controls", "tournament", "figures", "report"} | scores
    assert set(repro(copy)) == {"check", "judge"} | judged
    assert {name: contents(copy, [f"out/{name}"]) for name in taught} == kept
    assert dvc(copy, "status", "-q").returncode == 0
    second, first = (read_json(root / "out/report/summary.json") for root in (copy, project))
    assert second["judge"]["source"] == "sentiment" and first["judge"]["source"] == "trained"
    assert second["runs"][RUN]["policy_sha256"] == first["runs"][RUN]["policy_sha256"]
    assert second["runs"][RUN]["win_rate/sft"] != first["runs"][RUN]["win_rate/sft"]
    with_preset(copy, "on-policy", SMALL)
    assert set(repro(copy)) <= {"check"}, "the first judge's verdicts are in DVC's cache"
    assert (copy / "dvc.lock").read_bytes() == (project / "dvc.lock").read_bytes()


TWICE = [f"kl {RUN}", "sft", "judge", f"align {RUN}"]  # the run with snapshots


@pytest.mark.parametrize(
    "stages", [TWICE[-1:], pytest.param(TWICE * 5, marks=pytest.mark.campaign)], ids=["snapshots", "again and again"]
)
def test_a_stage_twice_at_once_is_one_execution(project: Path, tmp_path: Path, stages: list[str]) -> None:
    """Sharing a folder, one of six pairs ended in success without the snapshots."""
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, symlinks=True)
    (copy / TRACKED).unlink()
    for stage in stages:
        name, *run = stage.split()
        command = [sys.executable, "-m", f"stages.{name}", *run]
        settings: dict[str, Any] = {"cwd": copy, "env": environment(copy), "text": True}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        both = [subprocess.Popen(command, **settings, **pipes) for _ in (1, 2)]
        errors = [process.communicate()[1] for process in both]
        said = {process.returncode: error for process, error in zip(both, errors, strict=True)}
        assert sorted(said) == [0, 1], said
        refused = said[1].strip().splitlines()[-1]
        assert re.fullmatch(
            rf"ERROR in stage {'@'.join(stage.split())}: another process, pid (\d+), is running .*: kill \1", refused
        )
        assert "Traceback" not in said[1]
    assert dvc(copy, "status", "-q").returncode == 0, "the outputs are the recorded ones, to the byte"
    assert not list((copy / "scratch/partial").iterdir())


@pytest.mark.parametrize("end", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.campaign)])
def test_killing_dvc_leaves_no_stage(project: Path, tmp_path: Path, end: int) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, symlinks=True)
    (copy / "mlruns/mlflow.db").unlink()
    command = [BIN / "dvc", "repro", "-s", "-f", "sft"]
    running = subprocess.Popen(command, cwd=copy, env=environment(copy), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((copy / "scratch").glob("sft-*/checkpoint-*")) and not list((copy / "scratch/partial").glob("sft*")):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.1)
    # `attrs` gives None for a child that ended meanwhile, where `cmdline()` raises.
    below = {child.pid for child in psutil.Process(running.pid).children(recursive=True)}
    (stage,) = [
        process
        for process in psutil.process_iter(["cmdline"])
        if process.pid in below and "stages.sft" in (process.info["cmdline"] or ())
    ]
    running.send_signal(end)
    assert running.wait(30) == -end
    gone, _ = psutil.wait_procs([stage], timeout=30)
    assert gone, "the stage outlives its dvc"
    while tracked(copy) != [("sft", "KILLED")]:
        assert time.monotonic() < deadline + 60, tracked(copy)
        time.sleep(0.2)
    assert dvc(copy, "repro", "-s", "-f", "sft").returncode == 0
    assert dvc(copy, "status", "-q").returncode == 0
    assert not list((copy / "scratch/partial").iterdir()) and not list((copy / "scratch").glob("sft-*"))


def tracked(project: Path) -> list[Any]:
    try:
        with sqlite3.connect(f"file:{project / 'mlruns/mlflow.db'}?mode=ro", uri=True) as store:
            return store.execute("select name, status from runs").fetchall()
    except sqlite3.OperationalError:  # not there yet
        return []


@pytest.mark.campaign  # each stage reads only what it declares (below), and dvc.yaml declares it (test_dag.py)
def test_another_choice_of_pairs_samples_and_ranks_nothing_again(project: Path) -> None:
    before = {pair["id"] for pair in rows(project, "pairs/train.jsonl")}
    with_preset(project, "on-policy", {**SMALL, "pairs.choose": "best_worst"})
    ran = set(repro(project))
    per_run = {f"{stage}@{RUN}" for stage in ("align", "sample", "score", "kl")}
    assert {"pairs", "margins", "report"} | per_run <= ran
    assert ran.isdisjoint({"fetch", "judge", "sft", "candidates", "ranking", "reference", "controls"})
    after = {pair["id"] for pair in rows(project, "pairs/train.jsonl")}
    assert after < before and len({id_.rpartition("/")[0] for id_ in after}) == len(after) <= PROMPTS
