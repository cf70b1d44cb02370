"""`epsilon-dpo whence` on files of a project with real DVC: in place, copied, altered, of older commits, never seen."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from asking import POLICY, altered, copied, git, subjects, whence, write_yaml

from epsilon_dpo.cli import main
from epsilon_dpo.pipeline.stage.manifest import file_md5
from epsilon_dpo.pipeline.stage.params import flow, read_yaml
from epsilon_dpo.provenance.whence.content import folder_md5
from epsilon_dpo.provenance.whence.text import as_text


def test_an_output_by_its_path(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = whence(capsys, POLICY)
    assert (found["path"], found["stage"], found["known_by"]) == (POLICY, "align@dpo", "content")
    assert found["also"] == [] and subjects(found) == ["workspace", "the second results"]
    assert found["params"]["runs.dpo"] == {"method": "dpo", "beta": 0.5} and found["params"]["seed"] == 17
    assert found["params"].keys() == {"seed", "align", "runs.dpo"} and found["packages"] == {"torch": "2.13.0"}
    assert found["base"] == {"source": "pretrained", "path": "google/gemma-2-2b", "revision": "c" * 40}
    assert found["data"]["params"]["path"] == "data/rows.jsonl" and found["data"]["md5"].endswith(".dir")
    assert found["data"]["dataset"]["files"] == {"rows.jsonl": "ab12"}
    read = {parent["stage"]: list(parent["read"]) for parent in found["parents"]}
    assert read == {"align@dpo": ["out/base", "out/fetch"], "base": ["out/fetch"], "fetch": ["data"]}
    assert [parent["stage"] for parent in found["parents"]] == ["align@dpo", "base", "fetch"]
    assert found["mlflow"] is None


def test_the_metrics_of_a_training_are_an_output_of_their_own(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in ("out/align/metrics/dpo", "out/align/metrics/dpo/metrics.json"):
        found = whence(capsys, path)
        assert (found["path"], found["stage"], found["mlflow"]) == (path, "align@dpo", None)


def test_a_copy_under_another_name(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = whence(capsys, copied(POLICY, tmp_path / "best.bin"))
    assert (found["path"], found["stage"]) == (POLICY, "align@dpo")


def test_from_within_the_project_a_copy_is_found_and_from_without_an_output(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = copied(POLICY, tmp_path / "x")
    monkeypatch.chdir(project / "src")
    assert whence(capsys, copy)["path"] == POLICY
    monkeypatch.chdir(tmp_path)
    assert whence(capsys, project / POLICY)["path"] == POLICY


def test_a_figure_has_all_runs_behind_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["whence", "out/figures/images/pareto.png"])
    text = capsys.readouterr().out
    assert "is           out/figures/images/pareto.png\n  made by      stage figures\n" in text
    assert "figures <- out/align/metrics, out/fetch\n" in text
    assert "packages" not in text
    assert "align@{dpo,ipo} <- out/base, out/fetch\n" in text and "fetch <- data\n" in text


def test_what_several_stages_have_was_made_by_the_first(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [f"out/{of}/tokenizer.json" for of in ("base/tokenizer", "align/dpo/model", "align/ipo/model")]
    found = whence(capsys, copied(paths[2], tmp_path / "tokenizer.json"))
    assert (found["path"], found["stage"]) == (paths[0], "base")
    assert [place["path"] for place in found["also"]] == paths[1:]


def test_a_file_in_its_place_is_of_the_stage_that_wrote_it_there(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = whence(capsys, path := "out/align/ipo/model/tokenizer.json")
    assert (found["path"], found["stage"]) == (path, "align@ipo")
    assert [place["path"] for place in found["also"]] == [
        "out/base/tokenizer/tokenizer.json",  # where the content comes from
        "out/align/dpo/model/tokenizer.json",
    ]


@pytest.mark.parametrize("shared", [False, True], ids=["the project's cache", "a shared cache"])
def test_an_output_that_is_a_link_into_the_cache_is_in_the_place_of_the_link(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shared: bool
) -> None:
    """As DVC makes it with cache.type symlink; two other outputs have this content."""
    monkeypatch.chdir(copy := Path(shutil.copytree(project, tmp_path / "project")))
    cache = copy / ".dvc" / "cache"
    if shared:
        cache = cache.rename(tmp_path / "cache")
        Path(".dvc/config.local").write_text(f"[cache]\n    dir = {cache}\n")
    link = Path("out/align/ipo/model/tokenizer.json")
    md5 = file_md5(link)
    link.unlink()
    link.symlink_to(cache / "files" / "md5" / md5[:2] / md5[2:])
    found = whence(capsys, link)
    assert (found["path"], found["stage"]) == (str(link), "align@ipo")


def test_an_empty_file_is_known_by_its_place_alone(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = whence(capsys, "out/align/metrics/ipo/warnings.txt")
    assert (found["stage"], found["also"]) == ("align@ipo", [])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "warnings.txt").touch()
    (tmp_path / "pareto.png").touch()
    message = whence(capsys, tmp_path / "folder" / "warnings.txt", code=1)["message"]
    assert message == f"{tmp_path}/folder/warnings.txt is empty, as 3 outputs are; its content says nothing."
    cut = whence(capsys, tmp_path / "pareto.png", code=1)
    assert "is empty, as 3 outputs are" in cut["message"] and cut["differs"]["from"] == "out/figures/images/pareto.png"


def test_a_byte_makes_another_file(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = altered(POLICY, tmp_path / "model" / "model.safetensors", byte=1234)
    with pytest.raises(SystemExit) as end:
        main(["whence", str(changed)])
    assert end.value.code == 1
    assert capsys.readouterr().out.splitlines()[0] == (
        f"{changed} has the name of {POLICY} but other bytes: it is none of the outputs that dvc.lock of the workspace "
        "and of 3 commits records; the first differing byte is 1234, counted from 0."
    )
    said = whence(capsys, changed, code=1)
    assert said["found"] is False and said["differs"]["first_differing_byte"] == 1234
    assert (said["differs"]["from"], said["differs"]["stage"]) == (POLICY, "align@dpo")


def test_an_altered_file_is_compared_with_the_output_that_is_most_like_it(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All policies differ from it in the first byte, and each of them has its name."""
    for policy in (POLICY, "out/align/ipo/model/model.safetensors", "out/base/model/model.safetensors"):
        changed = altered(policy, tmp_path / "model.safetensors", byte=0)
        assert whence(capsys, changed, code=1)["differs"]["from"] == policy


def test_a_file_that_was_cut_off_differs_at_its_end(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "pareto.png"
    cut.write_bytes(Path("out/figures/images/pareto.png").read_bytes()[:20])
    assert whence(capsys, cut, code=1)["differs"]["first_differing_byte"] == 20


@pytest.mark.parametrize(
    ("kept", "subject", "beta"), [("first", "the first results", 0.3), ("second", "workspace", 0.5)]
)
def test_of_an_older_commit(
    project: Path, kept: str, subject: str, beta: float, capsys: pytest.CaptureFixture[str]
) -> None:
    found = whence(capsys, project.parent / "kept" / kept / "model" / "model.safetensors")
    assert subjects(found)[0] == subject and found["params"]["runs.dpo"]["beta"] == beta
    assert ("workspace" in subjects(found)) == (kept == "second")


def test_of_an_experiment(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = project.parent / "kept" / "experiment" / "model" / "model.safetensors"
    found = whence(capsys, policy)
    assert [place["experiment"] for place in found["recorded_by"]] == ["stronger"]
    assert found["params"]["runs.dpo"]["beta"] == 0.9
    main(["whence", str(policy)])
    assert "experiment stronger)" in capsys.readouterr().out


def test_an_experiment_that_a_branch_has_is_a_commit(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `dvc exp branch` makes it: of the same commit."""
    policy = project.parent / "kept" / "experiment" / "model" / "model.safetensors"
    monkeypatch.chdir(copy := shutil.copytree(project, tmp_path / "project"))
    git(copy, "branch", "wider", whence(capsys, policy)["recorded_by"][0]["sha"])
    assert [place["experiment"] for place in whence(capsys, policy)["recorded_by"]] == [None]


def test_never_seen(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "letter.txt").write_text("Dear all")
    assert whence(capsys, tmp_path / "letter.txt", code=1)["message"] == (
        f"{tmp_path / 'letter.txt'} is none of the outputs that dvc.lock of the workspace and of 3 commits records, "
        "and none of them has its name."
    )
    (tmp_path / "\x1b[2J.txt").write_text("Dear all")
    with pytest.raises(SystemExit):
        main(["whence", str(tmp_path / "\x1b[2J.txt")])
    assert capsys.readouterr().out.startswith(f"{tmp_path}/\\u001b[2J.txt is none of the outputs"), "as printed"


def test_folders(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert whence(capsys, "out/align/dpo")["path"] == "out/align/dpo"
    copy = Path(shutil.copytree("out/align/dpo/model", tmp_path / "best"))
    (copy / "left.tmp").write_text("what .dvcignore names")
    found = whence(capsys, copy)
    assert (found["path"], found["stage"]) == ("out/align/dpo/model", "align@dpo")
    assert found["manifest"]["stage"] == "align" and found["manifest"]["run"] == "dpo"
    (copy / "tokenizer.json").write_text("b tokenizer")
    (copy / "notes.txt").write_text("mine")
    said = whence(capsys, copy, code=1)["message"]
    assert said.startswith(
        f"{copy} is out/align/dpo/model with changes: tokenizer.json changed (the first differing byte is 0, counted "
        "from 0); notes.txt added; as it is, it is none of the outputs"
    )


def test_nothing_is_written(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(project, tmp_path / "copy", ignore=shutil.ignore_patterns("scratch")))
    altered(POLICY, tmp_path / "model.safetensors", byte=0)
    shutil.copytree("out/base/model", tmp_path / "base")
    monkeypatch.chdir(copy)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def state() -> dict[str, tuple[int, int]]:
        return {str(file): (file.stat().st_mtime_ns, file.stat().st_size) for file in tmp_path.rglob("*")}

    before = state()
    whence(capsys, POLICY)
    whence(capsys, tmp_path / "model.safetensors", code=1)
    for folder in ("out/align/dpo/model", tmp_path / "base"):
        assert whence(capsys, folder)["manifest"]
    assert state() == before


def test_a_users_errors_are_one_sentence(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^ERROR: no/such does not exist; name a file or folder\.$"):
        main(["whence", "no/such"])
    with pytest.raises(SystemExit, match=r"^ERROR: /proc/self/mem cannot be read: Input/output error\.$"):
        main(["whence", "/proc/self/mem"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=r"^ERROR: .*/empty holds no file; name a file, or a folder with some\.$"):
        main(["whence", str(tmp_path / "empty")])
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="file is in no DVC project, and neither is the working folder: run this in"):
        main(["whence", "file"])
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(SystemExit, match=r"has no dvc\.lock, in the workspace or in a commit; `dvc repro` makes it"):
        main(["whence", "file"])


def test_git_that_refuses_is_heard_and_none_is_no_error(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shutil.copytree(project, tmp_path / "copy"))
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(SystemExit, match=r"ERROR: git does not read the history of .*: fatal: detected dubious owner"):
        main(["whence", POLICY])
    monkeypatch.delenv("GIT_TEST_ASSUME_DIFFERENT_OWNER")
    shutil.rmtree(".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert subjects(whence(capsys, POLICY)) == ["workspace"]


def test_commits_that_a_partial_clone_lacks_are_counted(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copied(POLICY, tmp_path / "policy")
    git(source := shutil.copytree(project, tmp_path / "source"), "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--filter=blob:none", f"file://{source}", "clone")
    source.rename(tmp_path / "away")
    shutil.copytree(project / ".dvc" / "cache", tmp_path / "clone" / ".dvc" / "cache")
    monkeypatch.chdir(tmp_path / "clone")
    main(["whence", "../policy"])
    said = capsys.readouterr()
    assert "the second results)" in said.out and "dvc.lock of 1 commit is not in this clone, and git" in said.err


@pytest.mark.parametrize("arguments", [("--depth=1",), ()], ids=["shallow", "whole"])
def test_where_nothing_is_found_a_shallow_clone_says_that_older_commits_are_not_there(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
) -> None:
    """A file without a manifest, one that somebody changed, and a model that a removed lock records."""
    git(tmp_path, "clone", "-q", *arguments, f"file://{project}", "clone")
    shutil.copytree(project / ".dvc" / "cache", tmp_path / "clone" / ".dvc" / "cache")
    first = copied(project.parent / "kept" / "first" / "model" / "model.safetensors", tmp_path / "policy")
    shutil.copytree(project.parent / "kept" / "first" / "model", tmp_path / "model")
    monkeypatch.chdir(tmp_path / "clone")
    (tmp_path / "note").write_text("of nobody")
    cut = "this clone is shallow, so older commits were not looked in: `git fetch --unshallow` brings them"
    assert (cut in whence(capsys, tmp_path / "note", code=1)["message"]) == bool(arguments)
    changed = altered(first, tmp_path / "other" / "model.safetensors", 3)
    assert (cut in whence(capsys, changed, code=1)["message"]) == bool(arguments)
    if arguments:
        assert cut in whence(capsys, tmp_path / "model")["note"]
    else:
        assert subjects(whence(capsys, tmp_path / "model")) == ["the first results"]
    assert cut not in str(whence(capsys, copied(project / POLICY, tmp_path / "second")))


@pytest.mark.parametrize(
    ("subject", "read"),
    [("résultats".encode("latin-1"), "r\ufffdsultats"), ("one\u2028commit two".encode(), "one\u2028commit two")],
    ids=["another encoding", "a separator of lines"],
)
def test_a_subject_may_be_any_text(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    subject: bytes,
    read: str,
) -> None:
    monkeypatch.chdir(copy := shutil.copytree(project, tmp_path / "copy"))
    (tmp_path / "subject").write_bytes(subject)
    Path("dvc.lock").write_text(Path("dvc.lock").read_text("utf-8") + "# again\n")
    git(copy, "-c", "i18n.commitEncoding=", "commit", "-qaF", str(tmp_path / "subject"))
    assert subjects(whence(capsys, POLICY))[1] == read


def test_a_lock_that_cannot_be_read_hides_no_other(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shutil.copytree(project, tmp_path / "copy"))
    lock = Path("dvc.lock")
    lock.write_text("<<<<<<< ours\n" + lock.read_text("utf-8"))
    assert subjects(whence(capsys, POLICY)) == ["the second results"]


def test_another_stage_that_made_it_in_an_older_commit_is_named(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shutil.copytree(project, tmp_path / "copy"))
    Path("dvc.lock").write_text(Path("dvc.lock").read_text("utf-8").replace("align@dpo:", "align@best:"))
    found = whence(capsys, POLICY)
    assert found["stage"] == "align@best" and subjects(found) == ["workspace"]
    (other,) = found["also"]
    assert (other["path"], other["stage"], other["elsewhere"]) == (POLICY, "align@dpo", True)
    assert subjects(other) == ["the second results"]
    main(["whence", POLICY])
    assert f"also in      {POLICY} (align@dpo, by dvc.lock of " in capsys.readouterr().out


@pytest.fixture
def interrupted(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, and the working folder, in which `dvc repro` on other rows was stopped after stage fetch."""
    copy = Path(shutil.copytree(project, tmp_path / "copy"))
    monkeypatch.chdir(copy)
    lock = read_yaml(Path("dvc.lock"))
    lock["stages"]["fetch"]["outs"][0]["md5"] = f"{'0' * 32}.dir"
    lock["stages"]["fetch"]["params"]["params.yaml"]["fetch"]["path"] = "data/other.jsonl"
    write_yaml(Path("dvc.lock"), lock)
    return copy


def test_a_parent_that_ran_again_alone_is_not_its_origin(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(interrupted.parent))
    why = "its lock has another out/fetch by now"
    found = whence(capsys, POLICY)
    assert (found["data"], found["not_known"]) == (None, {"data": why})
    assert found["base"]["path"] == "google/gemma-2-2b", "which it still is"
    assert [parent["stage"] for parent in found["parents"]] == ["align@dpo", "base"]
    main(["whence", POLICY])
    text = capsys.readouterr().out
    assert f"data         not known: {why}\n" in text and "other.jsonl" not in text
    assert "align@dpo <- out/base, out/fetch; another out/fetch than is recorded now" in text


def test_a_commit_that_still_has_its_parents_is_asked_before_a_lock_that_has_not(
    interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = whence(capsys, POLICY)
    assert found["data"]["params"]["path"] == "data/rows.jsonl" and found["not_known"] == {}
    assert subjects(found) == ["the second results"]
    (other,) = found["also"]
    assert (other["path"], other["elsewhere"], subjects(other)) == (POLICY, True, ["workspace"])


def test_of_a_folder_of_several_outputs_the_digests_are_put_together(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures read out/align/metrics, of which a lock has no digest."""
    lock = read_yaml(Path("dvc.lock"))
    lock["stages"]["align@dpo"]["outs"][1]["md5"] = lock["stages"]["align@ipo"]["outs"][1]["md5"]
    write_yaml(Path("dvc.lock"), lock)
    shutil.rmtree(".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(interrupted.parent))
    found = whence(capsys, "out/figures")
    assert found["parents"][0]["stale"] == ["out/align/metrics", "out/fetch"] and len(found["parents"]) == 1


def test_what_is_no_output_is_told_apart(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, said in (
        ("out", "holds the outputs out/align/dpo, "),
        (
            "out/align",
            "holds the outputs out/align/dpo, out/align/ipo, out/align/metrics/dpo, out/align/metrics/ipo; ask",
        ),
        ("src", "is no output but a source, read by align@dpo, align@ipo; git knows its history."),
    ):
        assert said in whence(capsys, path, code=1)["message"]


def test_a_lock_with_merge_marks_is_named(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = project / "dvc.lock"
    text = lock.read_text("utf-8")
    (tmp_path / "new").write_text("no stage made this")
    try:
        lock.write_text(f"<<<<<<< ours\n{text}=======\n{text}>>>>>>> theirs\n", "utf-8")
        found = whence(capsys, tmp_path / "new", code=1)
    finally:
        lock.write_text(text, "utf-8")
    assert "dvc.lock of the workspace cannot be read: it may have merge marks" in found["message"]


@pytest.mark.parametrize(
    "ref", ["refs/stash", "refs/exps/celery/stash", "refs/exps/temp/ab", "refs/exps/exec/EXEC_MERGE"]
)
def test_a_stash_records_nothing(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ref: str
) -> None:
    """Also one of DVC's queue: no clone has it, and `git stash drop` or `dvc queue remove` takes it away."""
    copy = shutil.copytree(project, tmp_path / "project")
    monkeypatch.chdir(copy)
    lock = copy / "dvc.lock"
    lock.write_text(lock.read_text() + "# of a result that nobody has committed\n")
    git(copy, "update-ref", ref, git(copy, "stash", "create").strip())
    assert subjects(whence(capsys, POLICY)) == ["workspace", "the second results"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (
            {"path": "google/gemma-2-2b", "tokens": ["<|eot_id|>"], "stop": None, "lr": 1e-06},
            "{path: google/gemma-2-2b, tokens: [<|eot_id|>], stop: null, lr: 1e-06}",
        ),
        ({"strings": ["User:", "[EOS]", "no, thanks"]}, '{strings: ["User:", "[EOS]", "no, thanks"]}'),
        (["# x", " x", "12345678", "true", "null", ""], '["# x", " x", "12345678", "true", "null", ""]'),
        ({"a: b": "\n\nHuman:"}, '{"a: b": "\\n\\nHuman:"}'),
    ],
)
def test_a_value_on_one_line_is_read_back_as_itself(tmp_path: Path, value: object, shown: str) -> None:
    """As whoever copies the recipe of a model card into params.yaml does."""
    assert flow(value) == shown
    (tmp_path / "params.yaml").write_text(f"block: {shown}\n")
    assert read_yaml(tmp_path / "params.yaml") == {"block": value}


def of_a_run(ran: dict[str, str]) -> dict[str, Any]:
    """An answer of whence, of a stage whose row of MLflow has this environment."""
    mlflow = {"name": "", "id": "", "started": 0, "known_by": "", "rebuilt": False, "link": "", "environment": ran}
    return {
        **{"file": "f", "found": True, "path": "out/align/dpo/model", "stage": "align@dpo", "also": []},
        **{"recorded_by": [{"workspace": True}], "params": {"seed": 17}, "packages": {"torch": "2"}},
        **{"data": {"out": "out/fetch", "dataset": None, "params": {}, "md5": "m"}, "base": {"source": "embedded"}},
        **{
            "not_known": {},
            "doubts": [],
            "mlflow": mlflow,
            "parents": [{"stage": "fetch", "read": ["data"], "stale": []}],
        },
        **{"known_by": "content", "manifest": {"stage": "align"}},
    }


@pytest.mark.parametrize(
    ("changed", "said"),
    [("true", " with uncommitted changes"), ("unknown", ", perhaps with uncommitted changes"), ("false", "")],
)
def test_the_code_of_a_run_is_a_commit_and_what_was_changed_beside_it(changed: str, said: str) -> None:
    ran = {"mlflow.source.git.commit": "c0ffee", "git.uncommitted_changes": changed, "python": "3"}
    lines = as_text(of_a_run(ran)).splitlines()
    assert f"  code         commit c0ffee{said}" in lines and "  environment  python 3" in lines


def test_the_answer_on_the_page_has_the_rows_that_are_printed() -> None:
    answer = of_a_run({"mlflow.source.git.commit": "c", "python": "3"})
    page = (Path(__file__).parents[3] / "docs/howto.md").read_text("utf-8")
    shown = page.split("$ epsilon-dpo whence ~/Downloads/best-policy\n")[1].split("```")[0]
    label = re.compile(r"^  (\S[\w ]*?)  ", re.MULTILINE)
    assert label.findall(shown) == label.findall(as_text(answer))


def in_the_cache(files: dict[str, str]) -> str:
    """The md5 of a folder of these texts by name, which DVC's cache of the working folder has from now on."""
    own = {name: hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() for name, text in files.items()}
    listed = json.dumps([{"md5": own[name], "relpath": name} for name in sorted(own)])
    for md5, text in [(folder_md5(own), listed), *((own[name], text) for name, text in files.items())]:
        file = Path(".dvc/cache/files/md5") / md5[:2] / md5[2:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder_md5(own)


def test_an_online_run_has_the_packages_that_score_its_answers(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which stage scorer records in the folder of its method; a run on pairs has none of them."""
    monkeypatch.chdir(shutil.copytree(project, tmp_path / "copy"))
    made_with, lock = json.dumps({"packages": {"scikit-learn": "1.9.1"}}), read_yaml(Path("dvc.lock"))
    read = {"out/scorer/rloo": in_the_cache({"made_with.json": made_with}), "out/scorer/dpo": in_the_cache({"s": "{}"})}
    whole = in_the_cache({"rloo/made_with.json": made_with, "dpo/s": "{}"})
    lock["stages"]["scorer"] = {"cmd": "x", "outs": [{"path": "out/scorer", "md5": whole}]}
    for run, path in (("dpo", "out/scorer/rloo"), ("ipo", "out/scorer/dpo")):
        lock["stages"][f"align@{run}"]["deps"].append({"path": path, "md5": read[path]})
    write_yaml(Path("dvc.lock"), lock)
    shutil.rmtree(".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert whence(capsys, POLICY)["packages"] == {"scikit-learn": "1.9.1", "torch": "2.13.0"}
    assert whence(capsys, POLICY.replace("dpo", "ipo"))["packages"] == {"torch": "2.13.0"}
    lock["stages"]["scorer"]["outs"][0]["md5"] = in_the_cache({"rloo/made_with.json": "{}", "dpo/s": "{}"})
    write_yaml(Path("dvc.lock"), lock)
    found = whence(capsys, POLICY)
    assert found["packages"] == {"torch": "2.13.0"}
    assert found["not_known"] == {"packages": "its lock has another out/scorer/rloo by now"}
    main(["whence", POLICY])
    assert "packages     not all known: its lock has another out/scorer/rloo by now\n" in capsys.readouterr().out
    assert whence(capsys, POLICY.replace("dpo", "ipo"))["not_known"] == {}
