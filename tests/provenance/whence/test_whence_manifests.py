"""`epsilon-dpo whence` on model folders that were copied away: without the project, without its cache, altered."""

import json
import re
import shutil
from pathlib import Path

import pytest
from asking import altered, dvc, subjects, whence, write_yaml

from epsilon_dpo.cli import main
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.pipeline.stage.manifest import file_md5, read_manifest, weights_digests, write_manifest
from epsilon_dpo.pipeline.stage.params import read_yaml

pytestmark = pytest.mark.slow


@pytest.fixture
def away(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the policy, and the working folder beside it, on a machine without the project."""
    copy = tmp_path / "elsewhere" / "my-policy"
    shutil.copytree("out/align/dpo/model", copy)
    monkeypatch.chdir(copy.parent)
    return copy


def test_a_model_folder_alone_says_where_it_comes_from(away: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = whence(capsys, "my-policy")
    assert found["known_by"] == "manifest" and "there is no DVC project here" in found["note"]
    said = found["manifest"]
    assert (said["stage"], said["run"], said["params"]["runs.dpo"]) == ("align", "dpo", {"method": "dpo", "beta": 0.5})
    assert said["dataset"]["files"] == {"rows.jsonl": "ab12"} and list(said["read_md5"]) == ["out/fetch/train.jsonl"]
    assert said["start"]["params"]["base"]["revision"] == "c" * 40
    main(["whence", "my-policy/model.safetensors"])
    text = capsys.readouterr().out
    sentence = "its weights have the sha256 that it names; there is no DVC project here, so that nothing else could be"
    assert sentence in " ".join(text.split())
    assert "manifest     stage align@dpo\n" in text and "it began as  stage base\n" in text


def test_weights_that_the_manifest_does_not_name_are_refused(away: Path, capsys: pytest.CaptureFixture[str]) -> None:
    altered(away / "model.safetensors", away / "model.safetensors", byte=7)
    for path in (away, away / "model.safetensors"):
        assert whence(capsys, path, code=1)["message"] == (
            f"{away}/model.safetensors is not the file of weights that {away}/manifest.json names: its sha256 "
            "differs, so nothing that the manifest says applies to it."
        )


def test_another_file_beside_the_weights_is_not_vouched_for(away: Path) -> None:
    with pytest.raises(SystemExit, match=r"tokenizer\.json is in no DVC project, and neither is the working folder"):
        main(["whence", str(away / "tokenizer.json")])


def test_in_the_project_altered_weights_are_compared_with_the_original(
    away: Path, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    altered(away / "model.safetensors", away / "model.safetensors", byte=7)
    monkeypatch.chdir(project)
    said = whence(capsys, away, code=1)
    assert "is not the file of weights" in said["message"]
    assert (said["differs"]["from"], said["differs"]["first_differing_byte"]) == ("out/align/dpo/model", 7)
    with pytest.raises(SystemExit):
        main(["whence", str(away)])
    assert "differs from byte 7, counted from 0, of model.safetensors\n" in capsys.readouterr().out


def test_without_a_cache_the_manifest_leads_to_the_commit(
    away: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clone = Path(shutil.copytree(project, tmp_path / "clone", ignore=shutil.ignore_patterns("cache", "out")))
    monkeypatch.chdir(clone)
    found = whence(capsys, away)
    assert (found["stage"], found["known_by"], found["path"]) == ("align@dpo", "manifest", "out/align/dpo")
    assert subjects(found) == ["workspace", "the second results"]
    assert "the list of the files of out/align/dpo is not in DVC's cache" in found["note"]
    older = project.parent / "kept" / "first" / "model"
    assert subjects(whence(capsys, older)) == ["the first results"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"x")
    assert (
        "are not in DVC's cache, so it may be in one of these: `dvc fetch --all-commits`"
        in (whence(capsys, other / "model.safetensors", code=1)["message"])
    )


@pytest.mark.parametrize("other", ["start", "data"])
def test_without_a_cache_no_other_start_is_vouched_for_and_no_data_of_ours_is_given(
    other: str,
    away: Path,
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A colleague's policy with the params of ours, of another base model or of other rows."""
    said = json.loads((away / "manifest.json").read_text("utf-8"))
    if other == "start":
        said["start"]["params"]["base"]["path"] = "google/gemma-2-9b"
    else:
        said["dataset"]["files"] = {"theirs.jsonl": "cd34"}
    (away / "manifest.json").write_text(json.dumps(said))
    monkeypatch.chdir(shutil.copytree(project, tmp_path / "clone", ignore=shutil.ignore_patterns("cache", "out")))
    found = whence(capsys, away)
    main(["whence", str(away)])
    text = capsys.readouterr().out
    assert "it began as  stage base\n" in text and "data/rows.jsonl" not in text
    if other == "start":
        assert "stage" not in found and "no dvc.lock of this project records it" in found["note"]
    else:
        assert (found["stage"], found["data"]["dataset"]) == ("align@dpo", said["dataset"])
        assert found["data"]["out"] is None and found["base"] == said["start"]["params"]["base"]
        assert "dataset: {files: {theirs.jsonl: cd34}, source: dataset}\n" in text


def test_without_a_cache_a_policy_is_in_the_output_that_has_models(
    away: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """DVC sorts a stage's outputs, so that those of a run named after "metrics" come in this order."""
    clone = Path(shutil.copytree(project, tmp_path / "clone", ignore=shutil.ignore_patterns("cache", "out")))
    monkeypatch.chdir(clone)
    lock = read_yaml(Path("dvc.lock"))
    lock["stages"]["align@dpo"]["outs"].reverse()
    write_yaml(Path("dvc.lock"), lock)
    found = whence(capsys, away)
    assert (found["path"], found["also"]) == ("out/align/dpo", [])


def test_weights_beside_the_manifest_of_others_are_known_by_their_content(
    away: Path, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(project / "out/align/ipo/model/model.safetensors", away / "model.safetensors")
    monkeypatch.chdir(project)
    found = whence(capsys, away / "model.safetensors")
    assert (found["stage"], found["known_by"], found["manifest"]) == ("align@ipo", "content", None)


def test_a_comment_in_the_code_runs_no_consumer_again(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The manifest is an output too, and must be the same after a stage ran again and made the same weights."""
    monkeypatch.chdir(shutil.copytree(project, tmp_path / "copy"))
    with Path("src/code.py").open("a") as file:
        file.write("# a comment\n")
    caplog.set_level("INFO", "dvc")
    caplog.clear()
    dvc("repro")
    ran = re.findall(r"Running stage '([^']+)'", caplog.text)
    assert sorted(ran) == ["align@dpo", "align@ipo"]


def test_a_model_of_another_project_is_not_taken_for_ours(
    away: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has our tokenizer and a name of ours, and its own weights, which its manifest names."""
    (away / "model.safetensors").write_bytes(b"theirs")
    write_manifest(away, "align@theirs", {"seed": 1})
    monkeypatch.chdir(project)
    for path in (away, away / "model.safetensors"):
        found = whence(capsys, path)
        assert found["known_by"] == "manifest" and "stage" not in found
        assert "no dvc.lock of this project records it" in found["note"] and found["manifest"]["run"] == "theirs"


def test_a_manifest_that_somebody_wrote_anew_is_seen(
    away: Path, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = json.loads((away / "manifest.json").read_text("utf-8"))
    said["params"]["seed"] = 18
    (away / "manifest.json").write_text(json.dumps(said))
    monkeypatch.chdir(project)
    assert whence(capsys, away, code=1)["differs"]["changed"] == ["manifest.json"]


def test_weights_and_manifest_changed_together_are_seen_where_the_original_is(
    away: Path, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    altered(away / "model.safetensors", away / "model.safetensors", byte=7)
    said = json.loads((away / "manifest.json").read_text("utf-8"))
    said["weights_sha256"] = weights_digests(away, remember=False)
    (away / "manifest.json").write_text(json.dumps(said))
    assert whence(capsys, away)["known_by"] == "manifest", "alone, nobody can tell"
    monkeypatch.chdir(project)
    for path in (away, away / "model.safetensors"):
        assert (
            f"By its manifest.json, {path} is of stage align@dpo, with params that a dvc.lock records, but the"
            in (whence(capsys, path, code=1)["message"])
        )


def test_a_lock_that_was_made_to_record_what_a_stage_did_not_make_is_doubted(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `dvc commit -f`, of two policies that changed places; and so is what was made from one of them."""
    monkeypatch.chdir(shutil.copytree(project, tmp_path / "copy"))
    assert whence(capsys, "out/figures/images")["doubts"] == []
    Path("out/align/dpo").rename("out/align/other")
    Path("out/align/ipo").rename("out/align/dpo")
    Path("out/align/other").rename("out/align/ipo")
    dvc("commit", "-q", "-f", "align@dpo", "align@ipo")
    (doubt,) = whence(capsys, "out/align/dpo/model")["doubts"]
    assert doubt == {
        **{"stage": "align@dpo", "named": "align@ipo", "manifest": "out/align/dpo/model/manifest.json"},
        **{
            "params": {"runs.ipo": {"method": "ipo", "beta": 0.1}},
            "recorded": {"runs.dpo": {"method": "dpo", "beta": 0.5}},
        },
    }
    assert [each["named"] for each in whence(capsys, "out/figures/images")["doubts"]] == ["align@ipo", "align@dpo"]
    main(["whence", "out/align/dpo"])
    assert (
        "  doubt        out/align/dpo/model/manifest.json says stage align@ipo, {runs.ipo: " in capsys.readouterr().out
    )


@pytest.mark.parametrize("damaged", [{"stage": 1}, {"run": 2}, {"params": 3}, {"weights_sha256": 4}])
def test_a_damaged_manifest_says_nothing(tmp_path: Path, damaged: dict[str, int]) -> None:
    said = {"stage": "align", "run": "dpo", "params": {}, "weights_sha256": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(said))
    assert read_manifest(tmp_path) == said
    (tmp_path / "manifest.json").write_text(json.dumps(said | damaged))
    assert read_manifest(tmp_path) is None


def test_a_manifest_says_what_the_weights_were_made_of_and_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = tmp_path / "model", tmp_path / "train.jsonl"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    data.write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    params = {"align": {"lora": None, "save_steps": 50}, "base": {"path": f"{tmp_path}/gemma"}, "seed": 1}

    def manifest(**changes: object) -> bytes:
        write_manifest(model, "align@dpo", params | changes, read=[Path("train.jsonl")])
        return (model / "manifest.json").read_bytes()

    before, policy = manifest(), digest(model)
    content = json.loads(before)
    assert content["params"] == {"align": {"lora": None}, "base": {"path": "gemma"}, "seed": 1}
    assert content["read_md5"] == {"train.jsonl": file_md5(data)}
    assert str(tmp_path).encode() not in before
    assert manifest(align={"lora": None, "save_steps": 7}) == before, "the weights are the same, so is what follows"
    assert manifest(seed=2) != before and digest(model) == policy != digest(model, whole=True)
    (model / "model.safetensors").unlink()
    (model / "manifest.json").unlink()
    write_manifest(model, "judge", {})
    assert not (model / "manifest.json").exists(), "a judge behind an endpoint has no weights"
