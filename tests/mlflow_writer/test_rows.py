"""The rows of policies, which other stages and reports write on: whole or not there, and marked by the last report."""

import dataclasses
import importlib.metadata
import math
import os
import re
import shutil
import subprocess
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

from epsilon_dpo.mlflow_writer import pending
from epsilon_dpo.mlflow_writer.delivery import Backlog
from epsilon_dpo.mlflow_writer.environment import environment
from epsilon_dpo.mlflow_writer.metrics import as_metrics
from epsilon_dpo.mlflow_writer.reading import recorded_run
from epsilon_dpo.mlflow_writer.record import Record
from epsilon_dpo.mlflow_writer.replicates import mark_replicate, write_summary
from epsilon_dpo.mlflow_writer.rows import Rows
from epsilon_dpo.pipeline.observability.tracker import now


@pytest.fixture
def rows(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Rows:
    monkeypatch.chdir(shared)
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return Rows()


def policy(run: str, **metrics: float) -> dict[str, Any]:
    return {
        "run": run,
        "policy_sha256": f"of_{run}",
        "params": {f"runs.{run}": {"method": "dpo", "beta": 0.1}},
        "metrics": {"steps": 2.0, "eval_loss": 0.5} | metrics,
        "curve": [{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.6}],
    }


def refuse(*_: Any) -> None:
    raise MlflowException("Permission denied", PERMISSION_DENIED)


def named(rows: Rows, run: str) -> list[Run]:
    return list(rows.client.search_runs([rows.store.experiment], f"attributes.run_name = 'align@{run}'"))


def test_a_row_that_is_written_from_the_outputs_is_whole_or_not_there(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go_away(*_: Any) -> None:
        raise TimeoutError

    for call in ("_log_params", "_log"):
        with monkeypatch.context() as outage, pytest.raises(TimeoutError):
            outage.setattr(rows, call, go_away)
            rows.compared([policy("cut")])
        (begun,) = named(rows, "cut")
        assert begun.info.status == "RUNNING"
        assert rows.policy_metrics("cut", "of_cut", {"kl_fwd_rb": 1.0}, at=1) is None, (
            "half a row passes for the policy's"
        )
        rows.close_dead()
        assert named(rows, "cut") == []
    with monkeypatch.context() as outage, pytest.raises(TimeoutError):
        outage.setattr(rows.client, "set_terminated", go_away)
        rows.compared([policy("cut")])
    rows.close_dead()
    (row,) = rows.compared([policy("cut")])
    (found,) = named(rows, "cut")
    assert (found.info.run_id, found.info.status) == (row, "FINISHED") and found.data.metrics["1_train/loss"] == 0.6
    assert not list(pending.folder().iterdir())


def test_where_no_row_may_be_deleted_one_that_was_cut_short_is_ended(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a server with logins; the next try ends it, which may never come to the end of a stage."""
    with monkeypatch.context() as outage, pytest.raises(MlflowException):
        outage.setattr(rows, "_log", refuse)
        rows.compared([policy("halved")])
    monkeypatch.setattr(rows.client, "delete_run", refuse)
    (row,) = rows.compared([policy("halved")])
    found = {run.info.run_id: run.info.status for run in named(rows, "halved")}
    assert found.pop(row) == "FINISHED" and [*found.values()] == ["KILLED"]
    assert not list(pending.folder().iterdir())


def test_a_record_is_closed_where_the_row_that_its_server_made_twice_may_not_be_deleted(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record("kl@doubled", "f" * 64, {}, {}, at=now(), execution="doubled")
    record.store = dataclasses.replace(record.store, is_local=False)
    other = record.create("kl@doubled", {"execution": "doubled"}, now())
    monkeypatch.setattr(record.client, "delete_run", refuse)
    record.close("FINISHED")
    assert rows.client.get_run(record.run_id).info.status == "FINISHED"
    assert rows.client.get_run(other).info.status == "KILLED" and [*record._executions()] == [record.run_id]


def test_of_two_that_write_a_missing_row_at_once_one_does(rows: Rows) -> None:
    """`make ui` beside `make repro`."""
    asked = [threading.Thread(target=Rows().compared, args=([policy("twice")],)) for _ in range(2)]
    with pending.claimed("twice-of_twice"):
        for each in asked:
            each.start()
        time.sleep(1.0)  # both have looked for the row by now
    for each in asked:
        each.join()
    assert len(named(rows, "twice")) == 1


def test_of_two_that_take_back_the_same_mark_at_once_neither_fails(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make ui` beside `make repro` again: both have seen the mark, and one is a moment behind."""
    (kept,) = rows.compared([policy("marked")])
    delete = rows.client.delete_tag
    monkeypatch.setattr(rows.client, "delete_tag", lambda *tag: (delete(*tag), delete(*tag)))
    rows.compared([policy("later")])
    tags = rows.client.get_run(kept).data.tags
    assert tags["in_report"] == "false" and not [key for key in tags if ".by." in key]
    monkeypatch.setattr(rows.client, "delete_tag", refuse)
    with pytest.raises(MlflowException, match="Permission denied"):
        rows.compared([policy("marked")])


def test_a_row_that_is_being_written_is_left_alone(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage of the same project ends in the meantime."""
    write = rows._log_params
    monkeypatch.setattr(rows, "_log_params", lambda *arguments: (rows.close_dead(), write(*arguments)))
    rows.compared([policy("busy")])
    (row,) = named(rows, "busy")
    assert row.info.status == "FINISHED" and row.info.lifecycle_stage == "active"


def test_what_a_report_asks_does_not_grow_with_the_store(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search by tags scans all of them: 20 ms among 10,000 runs, and 16 policies are no rare report."""
    latest = [policy(f"latest{i}") for i in range(4)]
    rows.compared(latest)
    asked: list[str] = []
    search = rows.client.search_runs
    monkeypatch.setattr(
        rows.client, "search_runs", lambda ids, query, **how: (asked.append(query), search(ids, query, **how))[1]
    )
    rows.compared(latest)
    assert len(asked) == 2, "one for the policies' rows, one for those of the report before"
    rows.compared([policy("latest1")])
    assert {str(run.info.run_name) for run in search([rows.store.experiment], "tags.in_report = 'true'")} == {
        "align@latest1"
    }


def test_marks_that_waited_do_not_undo_those_of_a_later_report(rows: Rows) -> None:
    """What they say of a policy that the later report has measured, too, is older as well."""

    def marked() -> set[str]:
        query = "tags.in_report = 'true'"
        return {str(run.info.run_name) for run in rows.client.search_runs([rows.store.experiment], query)}

    later = now()
    (kept,) = rows.compared([policy("later", place_last=1.0)], at=later)
    assert marked() == {"align@later"}
    older = [policy("later", place_last=2.0, kl_fwd_rb=3.0), policy("earlier", place_last=1.0)]
    assert len(rows.compared(older, at=later - 1000)) == 2
    assert marked() == {"align@later"}
    found = rows.client.get_run(kept).data.metrics
    assert (found["place_last"], found["kl_fwd_rb"]) == (1.0, 3.0)
    (row,) = named(rows, "earlier")
    assert row.data.metrics["place_last"] == 1.0 and row.data.tags["in_report"] == "false"
    rows.compared(older, at=later + 1)
    assert marked() == {"align@earlier", "align@later"}
    assert rows.client.get_run(kept).data.metrics["place_last"] == 2.0


def test_a_copied_project_does_not_end_the_rows_of_the_original(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Record("kl@copied", "f" * 64, {}, {}, at=now(), execution="copied")
    file = pending.folder().parent / ".project"
    kept = file.with_name("kept")
    file.rename(kept)
    shutil.copyfile(kept, file)  # and the lock of the original is in its own folder
    rows.close_dead()
    assert rows.client.get_run(original.run_id).info.status == "RUNNING"
    kept.replace(file)
    rows.close_dead()  # of another who does not see the process, say
    assert rows.client.get_run(original.run_id).info.status == "KILLED"
    original.close("FINISHED")
    run = rows.client.get_run(original.run_id)
    assert run.info.status == "FINISHED" and "error" not in run.data.tags


def test_a_row_that_was_ended_after_it_was_found_running_leaves_no_lock(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record("kl@ended", "f" * 64, {}, {}, at=now(), execution="ended")
    record.close("FINISHED")
    monkeypatch.setattr(rows, "search", lambda _: {record.run_id: {"execution": "ended"}})
    rows.close_dead()
    assert not pending.kept("ended").with_suffix(".lock").exists()


def test_two_first_stages_say_the_same_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second read the file before the first had written it: its rows were of no project that is known again."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(pending, "PATIENCE_S", 120.0)  # with a busy machine
    made, seconds = uuid.uuid4, list[str]()
    second = threading.Thread(target=lambda: seconds.append(pending.project()))

    def meanwhile() -> uuid.UUID:
        monkeypatch.setattr(uuid, "uuid4", made)
        second.start()
        second.join(0.5)
        return made()

    monkeypatch.setattr(uuid, "uuid4", meanwhile)
    first = pending.project()
    second.join()
    assert seconds == [first] and re.fullmatch(r"[0-9a-f]{32}-\d+", first)


def test_a_project_that_a_kill_left_without_its_id_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns/.project").touch()
    assert re.fullmatch(r"[0-9a-f]{32}-\d+", pending.project())


def test_an_experiment_leaves_the_values_of_the_report_on_a_policy_that_both_have(rows: Rows) -> None:
    """`dvc exp run --queue -S sample.temperature=0.7` trains nothing."""
    (row,) = rows.compared([policy("same", place_last=1.0)])
    experiment = Record("score@same", "f" * 64, {}, {}, at=now(), mark="in_report.tidy-lynx")
    assert experiment.policy_metrics("same", "of_same", {"win_rate/sft": 0.9}, at=now()) == row
    experiment.compared([policy("same", place_last=2.0), policy("new", place_last=1.0)])
    experiment.policy_metrics("new", "of_new", {"win_rate/sft": 0.9}, at=now())
    (new,) = named(rows, "new")
    found = rows.client.get_run(row).data
    assert found.metrics["place_last"] == 1.0 and "win_rate/sft" not in found.metrics
    assert found.tags["in_report.tidy-lynx"] == found.tags["in_report"] == "true"
    assert new.data.metrics["place_last"] == 1.0 and new.data.metrics["win_rate/sft"] == 0.9
    rows.policy_metrics("same", "of_same", {"win_rate/sft": 0.8}, at=now())  # the workspace's own
    assert rows.client.get_run(row).data.metrics["win_rate/sft"] == 0.8


def test_seeds_that_an_older_version_spelt_otherwise_are_averaged_with_those_of_today(rows: Rows) -> None:
    """Of a policy that DVC restores nothing is trained again, so that its row is of that version."""
    policies = [policy("older"), policy("untold"), policy("todays")]
    for each in policies:
        each["params"] = {f"runs.{each['run']}": {"method": "simpo", "gamma": 1.0, "beta": 2.5, "seed": None}}
    older, untold, todays = rows.compared(policies)
    rows.client.set_tag(older, "recipe", "simpo, gamma 1.0, beta 2.5")
    rows.client.delete_tag(untold, "recipe")
    experiment = Record("score@older", "f" * 64, {}, {}, at=now(), mark="in_report.tidy-lynx")
    experiment.compared(policies)
    assert rows.client.get_run(older).data.tags["recipe"] == "simpo, gamma 1.0, beta 2.5", "the workspace's is shown"
    rows.compared(policies)
    found = {rows.client.get_run(row).data.tags["recipe"] for row in (older, untold, todays)}
    assert found == {"simpo, beta 2.5, gamma 1"}


def test_what_a_report_no_longer_says_of_a_policy_is_taken_back(rows: Rows) -> None:
    """At another temperature a KL is none, and of answers that are no longer cut there is no rate of the uncut; what
    the training or somebody else logged stays, and a number that is said again is there again."""
    said = {"kl_fwd_rb": 2.0, "kl_fwd_data": 1.0, "untruncated_win_rate/sft_low": 0.4, "place_first": 1.0}
    (row,) = rows.compared([policy("cooled", **said)])
    rows._log(row, as_metrics({"1_train/rewards/chosen": 0.1, "by_hand": 3.0}, 1, now()))
    at = now()
    for later in (1, 2):
        rows.compared([policy("cooled", kl_fwd_data=1.0)], at=at + later)
    found = rows.client.get_run(row).data.metrics
    assert {name for name, value in found.items() if math.isnan(value)} == said.keys() - {"kl_fwd_data"}
    assert (found["kl_fwd_data"], found["by_hand"], found["1_train/rewards/chosen"]) == (1.0, 3.0, 0.1)
    assert len(rows.client.get_metric_history(row, "kl_fwd_rb")) == 2
    rows.compared([policy("cooled", **said)], at=at + 3)
    assert rows.client.get_run(row).data.metrics["kl_fwd_rb"] == 2.0


def test_another_judges_verdicts_replace_those_beside_the_answers(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """The win rates are the new judge's, too; what has not changed is not sent again."""
    sent = []
    monkeypatch.setattr(rows, "_log_file", lambda run_id, content, name: sent.append(content["data"]))
    for verdict in ("won", "won", "lost"):
        monkeypatch.setattr("epsilon_dpo.mlflow_writer.rows.table", lambda *_, said=verdict: {"data": [said]})
        rows.compared([policy("judged")])
    assert sent == [["won"], ["lost"]]


def test_projects_of_one_server_leave_each_others_marks(
    rows: Rows, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def marks() -> dict[str, str]:
        found = {name: named(rows, name) for name in ("of_ada", "of_bob", "of_both")}
        return {name: runs[0].data.tags["in_report"] for name, runs in found.items() if runs}

    def compared(project: str, *policies: str, at: int) -> dict[str, str]:
        monkeypatch.setattr(pending, "project", lambda: project)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", rows.client.tracking_uri)
        rows.compared([policy(name) for name in policies], at=at)
        return marks()

    assert compared("ada", "of_ada", "of_both", at=now() - 10) == {"of_ada": "true", "of_both": "true"}
    assert set(compared("bob", "of_bob", "of_both", at=now()).values()) == {"true"}
    assert set(compared("ada", "of_ada", at=now() - 5).values()) == {"true"}, "both of Bob's remain in his report"
    assert "not marked" not in capsys.readouterr().err
    assert compared("bob", "of_bob", at=now()) == {"of_ada": "true", "of_bob": "true", "of_both": "false"}
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # in a store of its own, a copied project meets the other's marks
    rows.compared([policy("of_both")])
    assert marks() == {"of_ada": "false", "of_bob": "false", "of_both": "true"}


def test_studies_of_one_server_leave_each_others_replicates(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ada", "bob", "carl"):
        rows.compared([policy(f"study_{name}")])
    for project, name in (("a", "ada"), ("b", "bob"), ("b", "carl")):
        monkeypatch.setattr(pending, "project", lambda project=project: project)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", rows.client.tracking_uri)
        assert mark_replicate("small", 1, {f"study_{name}": f"of_study_{name}"}) == 1
    studies = {name: named(rows, f"study_{name}")[0].data.tags.get("study") for name in ("ada", "bob", "carl")}
    assert studies == {"ada": "small", "bob": None, "carl": "small"}


def test_a_row_of_a_summary_that_may_not_be_deleted_is_ended(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a server with logins, where a colleague has made it; the summary is written all the same."""

    def summary(*betas: float) -> None:
        params = [{"method": "dpo", "beta": beta} for beta in betas]
        write_summary("team", [{"params": each, "seeds": "7 8 9", "metrics": {"kl": 1.0}} for each in params], "95%")

    summary(0.1, 0.3)
    monkeypatch.setattr(MlflowClient, "delete_run", refuse)
    summary(0.1)
    runs = rows.client.search_runs([rows.store.experiment], "tags.seeds = '7 8 9'")
    found = {str(run.info.run_name): (run.info.status, run.data.tags.get("study_summary")) for run in runs}
    assert found == {"dpo, beta 0.1": ("FINISHED", "team"), "dpo, beta 0.3": ("KILLED", None)}


def test_a_clock_that_was_ahead_does_not_silence_later_reports(rows: Rows, capsys: pytest.CaptureFixture[str]) -> None:
    rows.compared([policy("ahead")], at=now() + 10**9)
    rows.compared([policy("right")])
    found = {name: named(rows, name)[0].data.tags["in_report"] for name in ("ahead", "right")}
    assert found == {"ahead": "false", "right": "true"}
    rows.compared([policy("ahead")], at=1)
    assert capsys.readouterr().err.count("the rows of this report are not marked") == 1


def test_a_stage_names_the_training_whose_policy_it_read_also_one_that_was_restored(rows: Rows) -> None:
    """DVC brings back the policy of the day before, while a newer row of the same run is of another."""
    for at, sha256 in enumerate(("yesterday", "today"), start=1):
        training = Record("align@restored", sha256, {}, {}, at=at)
        training.tags({"policy_sha256": sha256})
        training.close("FINISHED")
    made = {run.data.tags["policy_sha256"]: run for run in named(rows, "restored")}
    kl = Record("kl@restored", "f" * 64, {}, {}, at=3)
    kl.policy_metrics("restored", "yesterday", {"kl_fwd_rb": 2.0}, at=3)
    assert rows.client.get_run(kl.run_id).data.tags["policy_run"] == made["yesterday"].info.run_id
    assert [run.data.metrics for run in named(rows, "restored")] == [{}, {"kl_fwd_rb": 2.0}], "newest first"
    unknown = Record("kl@unknown", "f" * 64, {}, {}, at=4)
    unknown.policy_metrics("unknown", "nobody", {"kl_fwd_rb": 2.0}, at=4)
    assert "policy_run" not in rows.client.get_run(unknown.run_id).data.tags


def test_the_record_of_a_run_is_not_that_of_another_with_the_same_params(rows: Rows) -> None:
    """Stage kl of every run declares the same, and the newest record is the other run's."""
    params, made = {"seed": 17, "kl": {"batch_size": 32}}, {}
    for at, run in enumerate(("mine", "other"), start=1):
        record = Record(f"kl@{run}", f"of_{run}", params, {}, at=at)
        record.close("FINISHED")
        made[run] = record.run_id
    for run, run_id in made.items():
        found = recorded_run(Path.cwd(), f"kl@{run}", params, fingerprint="of the code of today")
        assert found is not None and (found["id"], found["known_by"]) == (run_id, "params")
    assert recorded_run(Path.cwd(), "kl@never_run", params) is None


def test_a_record_that_waited_gets_no_files_of_a_later_execution(
    rows: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    """In out/ are by now those of another result; within two seconds they are its own, since file systems round."""
    written = 1_700_000_000
    for run, later, files in (("same", 0, {"metrics.json"}), ("rounded", 1, {"metrics.json"}), ("replaced", 3, set())):
        record = Record(f"kl@{run}", "f" * 64, {}, {}, at=1000 * written)
        out = Path("out/kl", run)
        out.mkdir(parents=True)
        (out / "metrics.json").write_text("{}")
        os.utime(out / "metrics.json", (written + later, written + later))
        record.artifacts(str(out), at=1000 * written)
        assert {file.path for file in rows.client.list_artifacts(record.run_id)} - {"inputs.json"} == files
    said = capsys.readouterr().err
    assert said.count("has changed since") == said.count("out/kl/replaced has changed since this record of it was") == 1


def test_the_pictures_of_a_stage_are_among_its_files(rows: Rows) -> None:
    """Those of stage report lie in out/report/figures, those of stage figures in out/figures/images. Of a record that
    waited a file may be gone from DVC's cache, to which it is a link."""
    for stage, folder in (("report", "figures"), ("figures", "images")):
        out = Path("out") / stage
        (out / folder).mkdir(parents=True)
        for name in ("metrics.json", f"{folder}/one.png", f"{folder}/rows.jsonl"):
            (out / name).write_text("{}")
        (out / folder / "gone.png").symlink_to("nowhere")
        record = Record(stage, "f" * 64, {}, {}, at=now())
        record.artifacts(str(out), at=now())
        assert "metrics.json" in {file.path for file in rows.client.list_artifacts(record.run_id)}
        assert [file.path for file in rows.client.list_artifacts(record.run_id, folder)] == [f"{folder}/one.png"]


def test_files_of_one_name_in_two_outputs_do_not_replace_each_other(rows: Rows) -> None:
    """The judge's and the teacher's."""
    record = Record("judge", "f" * 64, {}, {}, at=now())
    for folder in ("judge", "teacher"):
        Path("out", folder).mkdir(parents=True)
        Path("out", folder, "judge.json").write_text(folder)
        record.artifacts(f"out/{folder}", at=now(), inside=None if folder == "judge" else folder)
    found = {name: rows.client.download_artifacts(record.run_id, name) for name in ("judge.json", "teacher/judge.json")}
    assert [Path(file).read_text() for file in found.values()] == ["judge", "teacher"]


def test_a_record_that_another_version_of_this_project_left_holds_up_no_others(rows: Rows) -> None:
    """Its opening or a message is one that this version does not know; it waits for one that does."""
    opening = {"fingerprint": "f" * 64, "params": {}, "inputs": {}, "at": now()}
    close = {"kind": "close", "status": "FINISHED", "at": now()}
    others = (("opening", {"said_later": 1}, [close]), ("message", {}, [{"kind": "said_later"}, close]))
    for number, (name, more, messages) in enumerate((*others, ("ours", {}, [close]))):
        assert pending.keep(opening | {"name": f"kl@{name}", "execution": name} | more, messages, "")
        os.utime(pending.kept(name), (number, number))
    backlog = Backlog("")
    assert backlog.deliver() and backlog.written == ["kl@ours"]
    waiting = {file.stem: file for file in pending.folder().glob("*.jsonl")}
    assert {*waiting} == {"opening", "message"} and not [*pending.folder().glob("*.refused")]
    assert [said.split()[0] for said in backlog.stuck] == ["kl@opening", "kl@message"]
    for file in waiting.values():
        file.unlink()


def test_a_new_file_of_code_is_a_change_and_dvcs_own_lock_is_none(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True)

    git("init", "-q")
    (tmp_path / "dvc.lock").write_text("a")
    (tmp_path / ".gitignore").write_text("__pycache__\n")
    git("add", ".")
    git("commit", "-qm", "first")
    (tmp_path / "dvc.lock").write_text("rewritten by dvc repro")
    (tmp_path / "src" / "__pycache__").mkdir(parents=True)
    (tmp_path / "src" / "__pycache__" / "a.pyc").write_text("")
    (tmp_path / "notes.txt").write_text("")
    assert environment(tmp_path)["git.uncommitted_changes"] == "false"
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "external").mkdir()
    (tmp_path / "external" / "dvc.lock").write_text("")  # new, and DVC's
    places = (tmp_path, tmp_path / "external")  # where the external stages run
    assert [environment(place)["git.uncommitted_changes"] for place in places] == ["false", "false"]
    (tmp_path / "src" / "my_method.py").write_text("")
    assert [environment(place)["git.uncommitted_changes"] for place in places] == ["true", "true"]


def test_a_repository_that_does_not_answer_is_not_said_to_be_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `git status` of a large one on a network drive, which is not waited for."""
    git = tmp_path / "git"
    git.write_text('#!/bin/sh\ncase "$*" in *status*|*ls-files*) exit "$CODE";; *) echo 0123456789;; esac\n')
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for code, said in (("0", "false"), ("1", "unknown")):
        monkeypatch.setenv("CODE", code)
        assert environment(tmp_path)["git.uncommitted_changes"] == said


def test_neither_an_absent_library_nor_the_name_of_a_file_costs_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dvc` may be a program of its own, and `core.quotepath false` lets git print a name in Latin-1."""
    git = tmp_path / "git"
    git.write_text(
        '#!/bin/sh\ncase "$*" in *ls-files*) printf "src/\\351.py";; *status*) ;; *) echo 0123456789;; esac\n'
    )
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    version = importlib.metadata.version

    def without_dvc(name: str) -> str:
        if name == "dvc":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_dvc)
    found = environment(tmp_path)
    assert (found["dvc"], found["torch"]) == ("not installed", version("torch"))
    assert found["git.uncommitted_changes"] == "true"


def test_a_machine_without_a_gpu_names_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image may have the program all the same, or it finds no driver."""
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\n[ -z "$GPUS" ] && exit 9\nprintf "%b" "$GPUS"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("GPUS", "")
    assert "gpu" not in environment(tmp_path)
    monkeypatch.setenv("GPUS", "NVIDIA H100\nNVIDIA A100\n")
    assert environment(tmp_path)["gpu"] == "NVIDIA H100, NVIDIA A100"
