"""The whole DAG as a user runs it: the default's claims at its pinned config, the same bytes twice, no stage twice."""

import csv
import json
import os
import shutil
import sqlite3
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer
from whole_pipeline import ROOT, all_stages, copy_project, dvc, link_files, metrics_of, repro, with_preset

from epsilon_dpo.pipeline.stage.files import read_jsonl

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default DAG, run once."""
    project = copy_project(tmp_path_factory.mktemp("default"))
    assert set(repro(project)) == all_stages(project)
    return project


RUNS = ["dpo", "epsilon_dpo", "tr_dpo"]


@pytest.mark.parametrize("run", RUNS)
def test_each_aligned_policy_beats_sft_by_the_true_scorer(project: Path, run: str) -> None:
    """Outside the 95 % interval, at the pinned config."""
    assert metrics_of(project, f"score/{run}")["true_win_rate/sft_low"] > 0.5


def test_the_readme_states_these_results(project: Path) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for run in RUNS:
        score, kl = metrics_of(project, f"score/{run}"), metrics_of(project, f"kl/{run}")
        rates = [
            f"{score[name]:.2f} ({score[name + '_low']:.2f}–{score[name + '_high']:.2f})"
            for name in ("true_win_rate/sft", "win_rate/sft")
        ]
        assert f"| {rates[0]} | {rates[1]} | {kl['kl_fwd_rb']:.2f} ± {kl['kl_fwd_rb_se']:.2f} |" in readme


def test_sft_learns_the_task(project: Path) -> None:
    """Right facts and known sentences: an untrained or broken policy scores below -1, the chosen answers about 1."""
    rewards = metrics_of(project, "score/dpo")
    assert rewards["true_reward/sft"] > 0.0
    assert metrics_of(project, "reference")["truncated_share"] < 0.05


def test_the_trained_judge_agrees_with_the_true_scorer(project: Path) -> None:
    judge = metrics_of(project, "judge")
    assert judge["truth_agreement"] > 0.68
    assert judge["truth_agreement_low"] > 0.6
    assert metrics_of(project, "controls")["win_rate/chosen_vs_chosen"] == 0.5


def test_a_second_repro_runs_nothing(project: Path) -> None:
    assert repro(project) == []
    assert dvc(project, "status", "-q").returncode == 0


def test_mlflow_shows_the_runs_with_win_rate_and_kl_on_one_row(project: Path) -> None:
    with sqlite3.connect(project / "mlruns" / "mlflow.db") as store:
        rows = store.execute(
            "select r.name, m.key, m.value from runs r join latest_metrics m on m.run_uuid = r.run_uuid "
            "where r.name like 'align@%'"
        ).fetchall()
    table: dict[str, dict[str, float]] = {}
    for name, key, value in rows:
        table.setdefault(name, {})[key] = value
    assert sorted(table) == [f"align@{run}" for run in RUNS]
    for run in RUNS:
        assert table[f"align@{run}"]["win_rate/sft"] == pytest.approx(
            metrics_of(project, f"score/{run}")["win_rate/sft"]
        )
        assert table[f"align@{run}"]["kl_fwd_rb"] == pytest.approx(metrics_of(project, f"kl/{run}")["kl_fwd_rb"])


def test_the_report_is_one_self_contained_page(project: Path) -> None:
    page = (project / "out/report/report.html").read_text("utf-8")
    assert "<img" in page and 'src="http' not in page and 'href="http' not in page and "<script src" not in page
    for run in RUNS:
        assert run in page


@pytest.mark.campaign  # test_on_policy_pipeline.py does the same with a smaller pipeline
def test_the_same_commit_gives_the_same_lock_without_a_tracking_store(project: Path, tmp_path: Path) -> None:
    """Another directory, and an MLflow server that does not answer: not a byte of dvc.lock differs."""
    other = copy_project(tmp_path / "other")
    repro(other, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert (other / "dvc.lock").read_text() == (project / "dvc.lock").read_text()


def test_changes_rerun_what_they_affect_and_a_restored_run_is_still_tracked(project: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(project, changed, symlinks=True)
    params = (changed / "params.yaml").read_text("utf-8")
    (changed / "params.yaml").write_text(params.replace("kl: {batch_size: 32", "kl: {batch_size: 16"), "utf-8")
    ran = repro(changed)
    assert [stage for stage in ran if not stage.startswith("kl@") and stage not in ("figures", "report")] == ["check"]
    (changed / "params.yaml").write_text(params, "utf-8")
    assert repro(changed) == []  # restored from DVC's run cache
    with sqlite3.connect(changed / "mlruns" / "mlflow.db") as store:  # what made the restored results is still there
        kls = {
            value
            for (value,) in store.execute(
                "select m.value from metrics m join runs r on r.run_uuid = m.run_uuid "
                "where r.name = 'align@dpo' and m.key = 'kl_fwd_rb'"
            )
        }
    assert any(value == pytest.approx(metrics_of(changed, "kl/dpo")["kl_fwd_rb"]) for value in kls)
    without_tr_dpo = "".join(line for line in params.splitlines(keepends=True) if not line.startswith("  tr_dpo:"))
    (changed / "params.yaml").write_text(without_tr_dpo, "utf-8")
    assert set(repro(changed)) == {"check", "tournament", "figures", "report"}
    assert "tr_dpo" not in json.loads((changed / "out/report/summary.json").read_text("utf-8"))["runs"]


def test_a_failing_stage_stops_the_pipeline_in_one_sentence(project: Path, tmp_path: Path) -> None:
    broken = copy_project(tmp_path / "broken")
    params = (broken / "params.yaml").read_text("utf-8")
    (broken / "params.yaml").write_text(
        params.replace("dpo: {method: dpo, beta: 0.3}", "dpo: {method: dpo, beta: -0.3}"), "utf-8"
    )
    done = dvc(broken, "repro")
    assert done.returncode != 0
    assert "ERROR in stage check: params.yaml: runs.dpo.beta = -0.3 is refused" in done.stdout + done.stderr
    assert not list((broken / "out").rglob("*.txt"))


def test_a_missing_method_file_is_named_before_anything_runs(project: Path, tmp_path: Path) -> None:
    broken = copy_project(tmp_path / "unknown")
    params = (broken / "params.yaml").read_text("utf-8")
    (broken / "params.yaml").write_text(
        params.replace("dpo: {method: dpo, beta: 0.3}", "dpo: {method: dop, beta: 0.3}"), "utf-8"
    )
    done = dvc(broken, "repro")
    assert done.returncode != 0
    assert "did you mean 'dpo'?" in done.stdout + done.stderr


def real_hh_folder() -> Path:
    folder = Path(os.environ.get("EPSILON_DPO_HH_FOLDER", "no folder is set")).resolve()
    if not (folder / "harmless-base" / "test.jsonl.gz").is_file():
        pytest.skip("set EPSILON_DPO_HH_FOLDER to a folder with harmless-base/test.jsonl.gz")
    return folder


def test_real_hh_dialogues_through_every_stage(tmp_path: Path) -> None:
    """The preset of the README on the real harmless-base test file; the validation names its known defects.

    With half of its SFT and answers half as long, for time.
    """
    hh = copy_project(tmp_path / "hh")
    link_files(real_hh_folder(), hh / "data/hh-rlhf")  # where the preset looks
    with_preset(hh, "hh-local", {"sft.max_steps": 50, "sample.max_new_tokens": 32})
    assert set(repro(hh)) == all_stages(hh)
    found = json.loads((hh / "out/validate/validation.json").read_text("utf-8"))["defects"]
    defects = {defect["name"]: defect["count"] for defect in found}
    assert defects["empty_chosen_single_turn"] == 3
    assert defects["rejected_leaves_chosen_prompt"] == 4
    assert defects["repeated_role_chosen"] == 8
    assert defects["duplicated_prompts"] == 2
    for run in RUNS:
        score, kl = metrics_of(hh, f"score/{run}"), metrics_of(hh, f"kl/{run}")
        assert score["n"] > 150 and kl["kl_fwd_rb"] > 2 * kl["kl_fwd_rb_se"] > 0.0
        assert not [name for name in score if name.startswith("true")], "nobody knows the truth here"
    assert metrics_of(hh, "judge")["accuracy_n"] > 500, "the labels of dialogues of several turns are judged too"
    assert metrics_of(hh, "controls")["win_rate/chosen_vs_chosen"] == 0.5
    assert_the_report_says_what_this_many_prompts_allow(hh)


def assert_the_report_says_what_this_many_prompts_allow(project: Path) -> None:
    """Rates, intervals and the prompts that a difference would take, computed here from the verdicts alone."""
    with (project / "out/report/comparisons.csv").open(encoding="utf-8") as file:
        compared = [row for row in csv.DictReader(file) if row["opponent"] == "chosen"]
    wins: dict[str, np.ndarray] = {}
    for run in RUNS:
        records = read_jsonl(project / "out/score" / run / "records.jsonl")
        wins[run] = np.array([record["win"] for record in records if record["opponent"] == "chosen"])
        score, rate, n = metrics_of(project, f"score/{run}"), wins[run].mean(), len(wins[run])
        half = 1.96 * (rate * (1.0 - rate) / n) ** 0.5
        low, high = score["win_rate/chosen_low"], score["win_rate/chosen_high"]
        assert score["win_rate/chosen"] == pytest.approx(rate)
        assert (low, high) == pytest.approx((rate - half, rate + half), abs=0.02)
    assert [(row["first"], row["second"]) for row in compared] == list(combinations(RUNS, 2))
    for row in compared:
        difference = wins[row["first"]] - wins[row["second"]]
        assert float(row["difference"]) == pytest.approx(difference.mean())
        assert int(row["n"]) == len(difference), "one answer to each prompt"
        if difference.mean() != 0.0:  # z of 0.05 / 3, two-sided, and of a power of 0.8
            needed = ((2.394 + 0.8416) * difference.std(ddof=1) / difference.mean()) ** 2
            assert int(row["n_needed"]) == pytest.approx(max(needed, 7), rel=1e-3, abs=1)
        decided = not float(row["low_together"]) <= 0.0 <= float(row["high_together"])
        assert (row["outcome"] != "cannot be told apart") == decided
        assert not decided or float(row["p_holm"]) <= 0.05
    page = (project / "out/report/report.html").read_text("utf-8")
    assert f"{len(difference)} held-out prompts" in " ".join(page.split())
    if all(row["outcome"] == "cannot be told apart" for row in compared):
        fewest = min(int(row["n_needed"]) for row in compared if row["n_needed"])
        assert f"{fewest:,} prompts" in page


def test_a_real_pretrained_model_through_every_stage(tmp_path: Path) -> None:
    """SmolLM2-135M-Instruct with its own tokenizer and chat template, a few steps on real dialogues."""
    models = Path(os.environ.get("EPSILON_DPO_REAL_MODELS", Path.home() / ".cache" / "epsilon-dpo"))
    smollm2 = models / "SmolLM2-135M-Instruct"
    if not smollm2.is_dir():
        pytest.skip("run `python tests/fetch_real_models.py` first")
    project = copy_project(tmp_path / "smollm2")
    link_files(real_hh_folder(), project / "data/hh-rlhf")
    model = {
        "source": "pretrained",
        "path": str(smollm2),
        "revision": None,
        "dtype": "float32",
        "chat_template": "own",
        "stop_token": "<|im_end|>",
    }
    few = {"max_steps": 2, "per_device_train_batch_size": 2, "logging_steps": 1, "save_steps": 2}
    changes = {
        "fetch.max_train_pairs": 60,
        "fetch.max_eval_pairs": 24,
        "base": model,
        "tokens.max_prompt_length": 160,
        "tokens.max_length": 224,
        "validate.max_dropped_share": 0.8,
        "validate.max_truncated_share": 0.5,
        "validate.min_train_pairs": 4,
        "validate.min_eval_pairs": 2,
        "sample.turns": "all",
        "sample.max_prompts": 3,
        "sample.max_new_tokens": 16,
        "runs": {"epsilon_dpo": {"method": "epsilon_dpo", "beta": 0.1, "epsilon": 0.01}},
        **{f"{block}.{key}": value for block in ("judge", "sft", "align") for key, value in few.items()},
    }
    with_preset(project, "hh-local", changes)
    assert set(repro(project)) == all_stages(project)
    pair = json.loads((project / "out/pairs/train.jsonl").read_text("utf-8").splitlines()[0])
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    text = tokenizer.decode(pair["prompt_ids"] + pair["chosen_ids"])
    assert text.startswith("<|im_start|>system") and text.count("<|im_start|>assistant") >= 1
    assert pair["chosen_ids"][-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert metrics_of(project, "align/epsilon_dpo")["steps"] == 2
    answered = read_jsonl(project / "out/sample/epsilon_dpo/samples.jsonl")
    assert any(len(answer["prompt"]) > 1 for answer in answered), "a dialogue of several turns is answered and judged"
    assert metrics_of(project, "kl/epsilon_dpo")["kl_fwd_rb"] >= 0.0
