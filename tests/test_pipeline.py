"""The whole DAG as a user runs it: the default's claims at its pinned config, and no stage twice."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
import readme_results
from whole_pipeline import all_stages, copy_project, dvc, metrics_of, repro

from epsilon_dpo.pipeline.stage.files import read_json
from epsilon_dpo.pipeline.stage.manifest import read_manifest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default DAG, run once."""
    project = copy_project(tmp_path_factory.mktemp("default"), tracked=True)
    assert set(repro(project)) == all_stages(project)
    return project


RUNS = ["dpo", "epsilon_dpo", "tr_dpo"]


@pytest.mark.parametrize("run", RUNS)
def test_each_aligned_policy_beats_sft_by_the_true_scorer(project: Path, run: str) -> None:
    """Outside the 95 % interval, at the pinned config."""
    assert metrics_of(project, f"score/{run}")["true_win_rate/sft_low"] > 0.5


def test_the_readme_states_these_results(project: Path) -> None:
    """Those of one processor: on another the trainings round otherwise, and some answers win that lost."""
    rows = readme_results.table()
    assert len(rows) == len(RUNS)
    for run, stated in zip(RUNS, rows, strict=True):
        score, kl = metrics_of(project, f"score/{run}"), metrics_of(project, f"kl/{run}")
        rates = [score[f"{name}/sft{end}"] for name in ("true_win_rate", "win_rate") for end in ("", "_low", "_high")]
        assert list(map(float, stated[:6])) == pytest.approx(rates, abs=0.03)
        assert list(map(float, stated[6:])) == pytest.approx([kl["kl_fwd_rb"], kl["kl_fwd_rb_se"]], rel=0.1)


def test_the_readme_states_what_these_results_say(project: Path) -> None:
    """Beside the table: the runs among each other by the true reward, and the judge beside it."""
    statements = read_json(project / "out/report/summary.json")["statements"]
    alike = "No two of the 3 runs can be told apart by their true wins over the chosen answers ("
    assert [said for said in statements if said.startswith(alike)], statements
    controls = metrics_of(project, "controls")
    found = {name: controls[f"{name}/shuffled_vs_chosen"] for name in ("win_rate", "true_win_rate")}
    found |= {"truth_agreement": metrics_of(project, "judge")["truth_agreement"]}
    assert readme_results.beside_the_table() == pytest.approx(found, abs=0.03)


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


def test_the_trained_judge_reads_the_question(project: Path) -> None:
    """A judge that does not lets answers to other prompts win half of the time."""
    controls = metrics_of(project, "controls")
    assert controls["win_rate/shuffled_vs_chosen_high"] < 0.35
    assert controls["truth_agreement/shuffled_vs_chosen"] > 0.75


def test_a_second_repro_runs_nothing(project: Path) -> None:
    assert repro(project) == []
    assert dvc(project, "status", "-q").returncode == 0


def test_every_model_says_where_it_comes_from(project: Path) -> None:
    weights = [file.parent for file in sorted((project / "out").rglob("*.safetensors"))]
    said = [read_manifest(folder) or {"stage": "none", "run": None} for folder in weights]
    policies = [("align", run) for run in RUNS]
    assert [(model["stage"], model["run"]) for model in said] == [
        *policies,
        ("base", None),
        ("judge", None),
        ("sft", None),
        ("none", None),  # of the teacher: it would name the judge beside it, which must not train a policy again
    ]


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


@pytest.mark.campaign  # tests/provenance/plan has what runs again, tests/mlflow_writer/test_rows.py what was restored
def test_changes_rerun_what_they_affect_and_a_restored_run_is_still_tracked(project: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(project, changed, symlinks=True)
    params = (changed / "params.yaml").read_text("utf-8")
    (changed / "params.yaml").write_text(params.replace("kl: {batch_size: 32", "kl: {batch_size: 16"), "utf-8")
    ran = repro(changed)
    assert [stage for stage in ran if not stage.startswith("kl@") and stage not in ("figures", "report")] == ["check"]
    (changed / "params.yaml").write_text(params, "utf-8")
    assert repro(changed) == ["check"]  # which always looks; the rest is restored from DVC's run cache
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


def test_a_missing_method_file_is_named_in_one_sentence_before_anything_runs(tmp_path: Path) -> None:
    broken = copy_project(tmp_path / "unknown")
    params = (broken / "params.yaml").read_text("utf-8")
    (broken / "params.yaml").write_text(
        params.replace("dpo: {method: dpo, beta: 0.3}", "dpo: {method: dop, beta: 0.3}"), "utf-8"
    )
    done = dvc(broken, "repro")
    assert done.returncode != 0
    assert "did you mean 'dpo'?" in done.stdout + done.stderr
    assert "ERROR in stage check: params.yaml: runs.dpo.method" in done.stdout + done.stderr
    assert not list((broken / "out").rglob("*.txt"))
