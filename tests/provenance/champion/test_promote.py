"""`epsilon-dpo promote` and `champion` in a project with real DVC and MLflow: who is promoted, and what is copied."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mlflow
import pytest
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from promotion_project import STRENGTHS, dvc, git, record_trainings, set_runs, store_of
from tracking_server import Server

from epsilon_dpo.cli import main
from epsilon_dpo.mlflow_writer.record import Record
from epsilon_dpo.mlflow_writer.registry import Registry
from epsilon_dpo.pipeline.stage.fingerprint import digest

pytestmark = pytest.mark.slow
NAME = "epsilon-dpo-policy"
Asked = Callable[..., str]


def store() -> MlflowClient:
    return MlflowClient(os.environ["MLFLOW_TRACKING_URI"])


def versions() -> list[str]:
    return [found.tags["run"] for found in store().search_model_versions(f"name = '{NAME}'")]


def models() -> list[LoggedModel]:
    experiment = store().get_experiment_by_name("epsilon-dpo")
    assert experiment is not None
    return list(store().search_logged_models([experiment.experiment_id]))


def champion() -> str:
    return store().get_model_version_by_alias(NAME, "champion").tags["run"]


def test_a_champion_is_replaced_by_what_is_told_from_it_only(
    project: Path, refused: Asked, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = refused("promote", "hopeless")
    assert said == (
        "ERROR: nothing is promoted: hopeless loses to SFT, which the first champion has to beat: it won 45.0 % (41.0 "
        "% to 49.0 %) by the true reward, 95 % confidence, 100 answers."
    )
    main(["promote", "plain"])
    assert "plain beats SFT" in capsys.readouterr().out and champion() == "plain"
    assert refused("promote", "alike") == (
        "ERROR: version 1 stays the champion: alike cannot be told from the champion plain: +2.0 points (−2.0 to 6.0) "
        "of true wins over the chosen answers, 95 % confidence for all pairs of runs together, 100 prompts."
    )
    main(["promote", "plain"])
    assert "plain is the champion already: version 1" in capsys.readouterr().out
    main(["promote", "better"])
    assert capsys.readouterr().out.endswith("It is the champion now: version 2 of epsilon-dpo-policy.\n")
    assert "is worse than the champion better: −10.0 points" in refused("promote", "plain")
    assert champion() == "better" and sorted(versions()) == ["better", "plain"]

    version = store().get_model_version_by_alias(NAME, "champion")
    sha256 = digest(Path("out/align/better/model"))
    expected = {
        "policy_sha256": sha256,
        "dvc_path": "out/align/better/model",
        "git_commit": git("rev-parse", "HEAD").strip(),
    }
    expected |= {
        "decision.against": "plain",
        "decision.difference": "0.1",
        "decision.low": "0.06",
        "decision.high": "0.14",
    }
    assert expected.items() <= version.tags.items()
    assert "+10.0 points (6.0 to 14.0)" in version.description and sha256 in version.description
    model = store().get_logged_model(version.source.removeprefix("models:/"))
    assert model.tags["policy_sha256"] == sha256 and model.source_run_id == version.run_id
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": NAME, "version": "2"}]


def test_a_commit_that_came_later_is_named_by_another_promotion(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    git("rm", "-q", "--cached", "dvc.lock")
    git("commit", "-q", "--amend", "-m", "without its results")
    main(["promote", "plain"])
    main(["champion"])
    assert "none recorded it when it was promoted: commit dvc.lock, then promote it again" in capsys.readouterr().out
    git("add", "dvc.lock")
    git("commit", "-q", "-m", "results")
    main(["promote", "plain"])
    version = store().get_model_version_by_alias(NAME, "champion")
    assert version.tags["git_commit"] == git("rev-parse", "HEAD").strip()
    assert f"--rev {version.tags['git_commit']}" in version.description

    git("commit", "-q", "--amend", "-m", "the commit that was named is on no branch any more")
    main(["promote", "plain"])
    version = store().get_model_version_by_alias(NAME, "champion")
    assert version.tags["git_commit"] == git("rev-parse", "HEAD").strip()
    assert f"--rev {version.tags['git_commit']}" in version.description


def test_a_version_leads_to_a_row_that_is_not_deleted(project: Path) -> None:
    """A report has written the row of the training again; the model still names the one that was deleted."""
    main(["promote", "plain"])
    store().delete_run(store().get_model_version_by_alias(NAME, "champion").run_id)
    row = Record("align@plain", "f" * 64, {"runs.plain": {"method": "dpo"}}, {}, 2000)
    row.tags({"policy_sha256": digest(Path("out/align/plain/model")), "rebuilt": "true"})
    row.close("FINISHED")
    main(["promote", "plain", "--name", "again"])
    assert store().get_model_version_by_alias("again", "champion").run_id == row.run_id


def test_a_policy_whose_row_was_deleted_is_refused_until_there_is_a_row_again(project: Path, refused: Asked) -> None:
    """MLflow leaves the model of a row that it deletes."""
    (model,) = (model for model in models() if model.tags["run"] == "plain")
    store().delete_run(model.source_run_id)
    said = refused("promote", "plain")
    assert "MLflow's row of align@plain with this policy was deleted" in said and versions() == []
    command = f"{sys.executable} -m {said.split('`')[1].split(' ', 1)[1]}"
    subprocess.run(command.split(), check=True, capture_output=True)
    main(["promote", "plain"])
    assert store().get_model_version_by_alias(NAME, "champion").run_id == model.source_run_id


def test_the_alias_leads_to_weights_whose_digest_is_checked(
    project: Path, refused: Asked, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "epsilon-dpo promote RUN" in refused("champion")
    main(["promote", "plain"])
    sha256 = digest(Path("out/align/plain/model"))
    kept = shutil.copytree("out/align/plain/model", tmp_path / "kept")
    main(["champion"])
    assert f"sha256 {sha256}" in (said := capsys.readouterr().out) and "out/align/plain/model has this sha256" in said
    for place, remove in (("out/align/plain/model", None), ("DVC's cache", "out"), ("DVC's remote", ".dvc/cache")):
        if remove == ".dvc/cache":
            dvc("remote", "add", "-d", "store", str(tmp_path / "remote"))
            dvc("push", "-q")
        if remove:
            shutil.rmtree(remove)
        target = tmp_path / f"champion {place[-5:].strip('/')}"
        main(["champion", "--out", str(target)])
        assert f"from {place}; their sha256 is that of the registry" in capsys.readouterr().out
        assert digest(target, whole=True) == digest(kept, whole=True)
    assert "exists; name a folder to make" in refused("champion", "--out", str(target))
    (cached,) = (file for file in Path(".dvc/cache").rglob("*") if file.is_file() and b"0.6}{" in file.read_bytes())
    cached.unlink()  # as after a fetch that was stopped: the rest of the model is there
    main(["champion", "--out", str(tmp_path / "again")])
    assert "from DVC's remote; their sha256 is that of the registry" in capsys.readouterr().out
    assert digest(tmp_path / "again", whole=True) == digest(kept, whole=True)


def test_weights_that_were_changed_are_not_copied(project: Path, refused: Asked, tmp_path: Path) -> None:
    main(["promote", "plain"])
    shutil.rmtree("out")
    for file in Path(".dvc/cache").rglob("*"):
        if file.is_file() and b"0.6" in file.read_bytes() and file.read_bytes().startswith(b"{'method'"):
            os.chmod(file, 0o644)
            file.write_bytes(file.read_bytes()[:-1])
    assert "they are not the same, and are not copied" in refused("champion", "--out", str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()


def test_outputs_that_are_not_those_of_the_lock_are_refused(project: Path, refused: Asked) -> None:
    weights = Path("out/align/plain/model/model.safetensors")
    before = weights.read_bytes()
    os.chmod(weights, 0o644)
    weights.write_bytes(before + b"!")
    assert "out/align/plain is not what dvc.lock records of stage align@plain" in refused("promote", "plain")
    weights.write_bytes(before)
    summary = Path("out/report/summary.json")
    os.chmod(summary, 0o644)
    summary.write_text(summary.read_text().replace("0.6", "0.9"))
    assert "out/report is not what dvc.lock records of stage report" in refused("promote", "plain")


def test_an_output_that_was_not_pulled_is_fetched_and_not_made_again(
    project: Path, refused: Asked, tmp_path: Path
) -> None:
    dvc("remote", "add", "-q", "-d", "store", str(tmp_path / "remote"))
    dvc("push", "-q")
    shutil.rmtree("out/score/alike")
    said = refused("promote", "plain")
    assert "out/score/alike of stage score@alike is absent" in said and "repro" not in said
    assert said.endswith("`dvc pull out/score/alike` fetches it.")
    dvc("pull", "-q", "out/score/alike")
    main(["promote", "plain"])
    assert champion() == "plain"


def test_a_report_of_an_older_policy_is_refused(project: Path, refused: Asked) -> None:
    """Each output is that of dvc.lock, but the report read other scores."""
    set_runs(plain=0.65, alike=0.62, better=0.7, hopeless=0.45)
    dvc("repro", "-q", "-s", "align@plain")
    assert "out/align/plain is not what dvc.lock records of stage score@plain" in refused("promote", "plain")
    dvc("repro", "-q", "-s", "score@plain")
    assert "out/score is not what dvc.lock records of stage report" in refused("promote", "plain")


def test_a_policy_that_dvc_was_told_to_take_for_that_of_other_params_is_refused(project: Path, refused: Asked) -> None:
    """Every digest is that of dvc.lock then, and the card would state params that made nothing."""
    set_runs(plain=0.65, alike=0.62, better=0.7, hopeless=0.45)
    dvc("commit", "-q", "-f", "align@plain")
    assert refused("promote", "plain") == (
        "ERROR: out/align/plain/model/manifest.json says stage align@plain, {runs.plain: {method: dpo, strength: 0.6}},"
        " and dvc.lock says stage align@plain, {runs.plain: {method: dpo, strength: 0.65}}: dvc.lock was made to record"
        " what that stage did not make, as by `dvc commit -f`; `dvc repro -f -s align@plain` makes it anew."
    )


def test_a_result_of_another_pipeline_is_refused(project: Path, refused: Asked) -> None:
    """dvc.yaml has a dependency more than when the report was made."""
    text = Path("dvc.yaml").read_text()
    assert "    - out/score\n" in text
    Path("dvc.yaml").write_text(text.replace("    - out/score\n", "    - out/score\n    - out/align/plain\n"))
    assert "dvc.lock does not say what out/align/plain of stage report was" in refused("promote", "plain")


def test_a_cache_that_is_gone_is_not_needed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights have the sha256 of their manifest then, and their folder the digest of dvc.lock."""
    shutil.rmtree(".dvc/cache")
    main(["promote", "plain"])
    assert "version 1" in capsys.readouterr().out and champion() == "plain"


def test_a_champion_that_the_report_does_not_have_is_compared_with_nothing(
    project: Path, refused: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["promote", "plain"])
    set_runs(better=0.7, alike=0.62)
    dvc("repro", "-q")
    said = refused("promote", "better")
    assert "is none of the policies that out/report compares" in said and "--name" in said
    assert champion() == "plain"
    main(["promote", "better", "--name", "another"])
    assert "version 1 of another" in capsys.readouterr().out
    assert "compares no run 'plain'; it compares better, alike" in refused("promote", "plain")


def test_a_champion_whose_run_is_another_policy_by_now_cannot_be_made_again(project: Path, refused: Asked) -> None:
    main(["promote", "plain"])
    set_runs(**STRENGTHS | {"plain": 0.61})
    dvc("repro", "-q")
    said = refused("promote", "better")
    assert "is none of the policies that out/report compares" in said and "put its run back" not in said
    assert "its run was trained again and is another policy now" in said and "--name" in said
    store().delete_registered_model_alias(NAME, "champion")
    main(["promote", "better"])
    assert champion() == "better"


@pytest.mark.parametrize("may_delete", [True, False])
def test_a_champion_that_was_made_meanwhile_is_not_overwritten(
    project: Path, refused: Asked, monkeypatch: pytest.MonkeyPatch, may_delete: bool
) -> None:
    """As another clone would that writes to the same server: it cannot see this project's lock."""
    register = MlflowClient.create_model_version

    def beaten(client: MlflowClient, *arguments: Any, **rest: Any) -> ModelVersion:
        monkeypatch.setattr(MlflowClient, "create_model_version", register)
        monkeypatch.setattr(Registry, "decided_alone", lambda registry: nullcontext())
        main(["promote", "better"])
        made = register(client, *arguments, **rest)
        tags = {"mlflow.modelVersions": json.dumps([{"name": NAME, "version": made.version}])}
        client.set_logged_model_tags(rest["model_id"], tags)  # what a server does
        return made

    def refuse(*_: Any) -> None:
        raise MlflowException("Permission denied", PERMISSION_DENIED)

    monkeypatch.setattr(MlflowClient, "create_model_version", beaten)
    with monkeypatch.context() as login:
        if not may_delete:
            login.setattr(MlflowClient, "delete_model_version", refuse)
        said = refused("promote", "plain")
    assert "was changed during the comparison: version 1 is its champion by now" in said
    assert champion() == "better" and sorted(versions()) == ["better"] + ["plain"] * (not may_delete)
    (model,) = (model for model in models() if model.tags["run"] == "plain")
    assert len(json.loads(model.tags["mlflow.modelVersions"])) == (not may_delete)


CALLS = ["create_model_version", "set_registered_model_alias", "update_model_version"]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("done", [True, False], ids=["its answer is lost", "it is not done"])
def test_a_promotion_that_breaks_off_calls_nothing_promoted_and_is_ended_by_the_next(
    project: Path,
    refused: Asked,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    done: bool,
) -> None:
    main(["promote", "plain"])
    real = getattr(MlflowClient, call)

    def breaks_off(client: MlflowClient, *arguments: Any, **rest: Any) -> Any:
        if done:
            real(client, *arguments, **rest)
        raise MlflowException("the server went away")

    with monkeypatch.context() as outage:
        outage.setattr(MlflowClient, call, breaks_off)
        assert "the server went away" in refused("promote", "better")
    for version in store().search_model_versions(f"name = '{NAME}'"):
        is_champion = champion() == version.tags["run"]
        assert (
            is_champion
            or version.tags["run"] == "plain"
            or version.description.startswith("A candidate, not the champion")
        )
    capsys.readouterr()
    main(["promote", "better"])
    assert "version 2" in capsys.readouterr().out
    assert champion() == "better" and sorted(versions()) == ["better", "plain"]
    version = store().get_model_version_by_alias(NAME, "champion")
    assert version.description.startswith("Promoted because better is better than the champion plain")


def test_a_candidate_that_is_taken_up_has_the_new_decision_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as outage:
        outage.setattr(MlflowClient, "set_registered_model_alias", None)
        with pytest.raises(TypeError):
            main(["promote", "better"])
    main(["promote", "plain"])
    main(["promote", "better"])
    version = store().get_model_version_by_alias(NAME, "champion")
    assert version.tags["run"] == "better" and len(versions()) == 2
    assert version.tags["decision.against"] == "plain" and "decision.win_rate" not in version.tags


def test_a_promotion_waits_for_the_one_that_began_before_it(
    project: Path, refused: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = Path(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")).parent / ".promotion.lock"
    monkeypatch.setattr("epsilon_dpo.mlflow_writer.registry.LOCK_S", 0.1)
    with FileLock(lock):
        assert "another `epsilon-dpo promote` is at work" in refused("promote", "plain")
    assert "makes one" in refused("champion")


def test_an_alias_given_by_hand_is_not_taken_away(project: Path, refused: Asked) -> None:
    main(["promote", "plain"])
    by_hand = store().create_model_version(NAME, "somewhere", await_creation_for=0)
    store().set_registered_model_alias(NAME, "champion", by_hand.version)
    assert "no tag policy_sha256" in refused("promote", "better") and "no tag run" in refused("champion")


ADAPTER = """
if stage == "align" and run == "plain":
    config = {"base_model_name_or_path": "out/align/better/model", "revision": "b" * 64}
    (model / "adapter_config.json").write_text(json.dumps(config))
"""


def test_a_version_says_on_what_an_adapter_was_trained(project: Path) -> None:
    with Path("make.py").open("a") as file:
        file.write(ADAPTER)
    set_runs(**STRENGTHS | {"plain": 0.65})
    dvc("repro", "-q")
    record_trainings()
    main(["promote", "plain"])
    version = store().get_model_version_by_alias(NAME, "champion")
    expected = {"base.policy_sha256": "b" * 64, "base.dvc_path": "out/align/better/model"}
    assert (expected | {"base.dvc_out": "out/align/better"}).items() <= version.tags.items()
    assert version.tags["base.dvc_md5"] in Path("dvc.lock").read_text()
    assert "It is an adapter on `out/align/better/model` of the same commit" in version.description
    store().delete_model_version_tag(NAME, version.version, "base.dvc_md5")  # as an older promotion left it
    main(["promote", "plain"])
    assert store().get_model_version_by_alias(NAME, "champion").tags == version.tags


def test_a_lost_store_says_what_is_missing(project: Path, refused: Asked) -> None:
    for folder in Path.cwd().glob("mlruns*"):
        shutil.rmtree(folder)
    assert "no policy is registered" in refused("champion")
    assert not list(Path.cwd().glob("mlruns*")), "asking makes no store"


def test_mlflow_itself_hands_out_the_way_to_the_weights(
    results: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the store's own folder, where artifacts are kept. The promotion leaves the process no address of its own."""
    monkeypatch.chdir(results)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_of(results))
    main(["promote", "better", "--name", "downloaded"])
    assert mlflow.get_tracking_uri() == store_of(results)
    folder = Path(download_artifacts("models:/downloaded@champion", dst_path=str(tmp_path)))
    assert "mlflow.model.isExternal: true" in (folder / "MLmodel").read_text()
    assert "epsilon-dpo champion --name downloaded --out DIR" in (folder / "WEIGHTS.md").read_text()


@pytest.mark.campaign
def test_a_server_has_the_better_of_two_that_are_promoted_at_once(
    project: Path, refused: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Both beat SFT, so each would be the first champion; in any order `better` is the last one."""
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    assert f"MLflow's registry at {server.uri} does not answer" in refused("promote", "plain")
    server.start()
    try:
        record_trainings()
        assert "no version of epsilon-dpo-policy is the champion" in refused("champion")
        command = [sys.executable, "-c", "from epsilon_dpo.cli import main; main()", "promote"]
        asked = [subprocess.Popen([*command, run], stderr=subprocess.PIPE, text=True) for run in ("better", "plain")]
        errors = [process.communicate()[1] for process in asked]
        assert asked[0].returncode == 0, errors[0]
        assert champion() == "better" and sorted(versions()) in (["better"], ["better", "plain"])
        assert ("plain is worse than the champion better" in errors[1]) == (versions() == ["better"]), errors[1]
        capsys.readouterr()
        main(["champion", "--out", str(tmp_path / "weights")])
        said = capsys.readouterr().out
        assert "run better" in said and "their sha256 is that of the registry" in said
        assert digest(tmp_path / "weights", whole=True) == digest(Path("out/align/better/model"), whole=True)
        page = Path(download_artifacts("models:/epsilon-dpo-policy@champion", dst_path=str(tmp_path))) / "WEIGHTS.md"
        assert digest(tmp_path / "weights") in page.read_text()
    finally:
        server.stop()
    assert "does not answer" in refused("champion")
