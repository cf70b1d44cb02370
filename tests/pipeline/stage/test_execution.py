"""What a stage leaves behind: complete outputs or none, one sentence for the user, a traceback for a bug."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from untracked import Untracked, run_untracked

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage import fingerprint as fingerprint_module
from epsilon_dpo.pipeline.stage.execution import run_stage
from epsilon_dpo.pipeline.stage.files import atomic_folder, read_jsonl, write_json, write_jsonl
from epsilon_dpo.pipeline.stage.fingerprint import dependencies, digest, fingerprint, scratch_folder, stage_entry

ROOT = Path(__file__).resolve().parents[3]
DVC_YAML = """
stages:
  demo:
    foreach: ${runs}
    do:
      cmd: python -m stages.demo ${key}
      deps: [data, "methods/${item.method}.py"]
      params: [seed, "runs.${key}"]
      outs: ["out/demo/${key}"]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "params.yaml").write_text(
        "seed: 1\nother: 2\nruns:\n  a: {method: dpo, beta: 0.1}\n  b: {method: dpo, beta: 0.2}\n"
    )
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "dpo.py").write_text("x = 1\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens: the stage must not care
    return tmp_path


def test_a_stage_that_succeeds_leaves_its_outputs_and_no_scratch(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_stage("demo", "a") as stage:
        stage.scratch.mkdir(parents=True)
        (stage.out / "result").write_text("1")
        stage.summary = "loss 0.5"
        scratch = stage.scratch
    assert (project / "out/demo/a/result").read_text() == "1"
    assert [path.name for path in (project / "out/demo").iterdir()] == ["a"]
    assert not scratch.exists()
    assert "demo@a" in capsys.readouterr().out


FINISHING = """
from epsilon_dpo.pipeline.stage.execution import run_stage

with run_stage("demo", "a") as stage:
    (stage.out / "result").write_text("1")
    stage.summary = "KL 0.5 at β = 0.1"
"""


@pytest.mark.parametrize(("encoding", "stdout"), [("iso-8859-1", "log"), ("utf-8", "/dev/full")])
def test_what_cannot_be_printed_fails_no_result(project: Path, encoding: str, stdout: str) -> None:
    """DVC would not record what is published already."""
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    with Path(stdout).open("w", encoding=encoding) as log:
        done = subprocess.run([sys.executable, "-c", FINISHING], stdout=log, stderr=-1, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and (project / "out/demo/a/result").exists()
    assert stdout == "/dev/full" or r"KL 0.5 at \u03b2 = 0.1" in Path(stdout).read_text()


def test_help_is_printed_in_any_encoding() -> None:
    command = [sys.executable, "-m", "epsilon_dpo.cli", "push", "--help"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_a_user_error_is_one_line_and_leaves_nothing(project: Path) -> None:
    with pytest.raises(SystemExit) as end, run_stage("demo", "a") as stage:
        (stage.out / "half").write_text("1")
        raise UserError("data/rows.jsonl is empty; fetch it again.")
    assert end.value.code == "ERROR in stage demo@a: data/rows.jsonl is empty; fetch it again."
    assert list((project / "out").rglob("*")) == [project / "out/demo"]


class Told(Untracked):
    """In the place of the MLflow run: the folders whose small files would become its artifacts."""

    folders: list[Path]

    def __init__(self, *opening: Any) -> None:
        Told.folders = opening[4]


def test_metrics_that_lie_apart_are_published_and_tracked_with_the_output_or_not_at_all(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of a training, whose weights lie in the other folder."""
    both = '["out/demo/${key}", "out/demo/metrics/${key}"]'
    (project / "dvc.yaml").write_text(DVC_YAML.replace('["out/demo/${key}"]', both))
    run_untracked(monkeypatch, Told)
    with run_stage("demo", "a") as stage:
        (stage.out / "model").write_text("1")
        (stage.apart / "losses").write_text("2")
    assert Told.folders == [Path("out/demo/a"), Path("out/demo/metrics/a")]
    published = [project / "out/demo/a/model", project / "out/demo/metrics/a/losses"]
    assert [file for file in sorted((project / "out").rglob("*")) if file.is_file()] == published
    with pytest.raises(SystemExit, match=r"the loss is infinite\.$"), run_stage("demo", "b") as stage:
        (stage.out / "model").write_text("1")
        (stage.apart / "losses").write_text("2")
        raise UserError("the loss is infinite.")
    assert [file for file in sorted((project / "out").rglob("*")) if file.is_file()] == published


def test_a_crash_keeps_the_traceback_and_the_scratch_folder(project: Path) -> None:
    with pytest.raises(ZeroDivisionError), run_stage("demo", "a") as stage:
        stage.scratch.mkdir(parents=True)
        (stage.scratch / "checkpoint").write_text("step 50")
        scratch = stage.scratch
        _ = 1 / 0
    assert (scratch / "checkpoint").read_text() == "step 50"
    assert list((project / "out").rglob("*")) == [project / "out/demo"]


def test_what_a_crash_left_is_not_gone_on_from_under_another_arithmetic(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the result would be of one, half of the other, as no machine makes it."""
    there = []
    for capability in ("avx2", "default", "avx2"):
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
        with pytest.raises(ZeroDivisionError), run_stage("demo", "a") as stage:
            there.append(stage.scratch.exists())
            stage.scratch.mkdir(parents=True, exist_ok=True)
            _ = 1 / 0
    assert there == [False, False, True]


def test_the_fingerprint_follows_what_the_stage_declares_and_nothing_else(project: Path) -> None:
    def made_from(run: str) -> str:
        entry = stage_entry("demo", run)
        return fingerprint(entry, dependencies(entry))

    first = made_from("a")
    text = (project / "params.yaml").read_text()
    for other in (text.replace("other: 2", "other: 3"), text.replace("beta: 0.2", "beta: 0.9")):
        (project / "params.yaml").write_text(other)
        assert made_from("a") == first
    seen = {first}
    (project / "params.yaml").write_text(text.replace("beta: 0.1", "beta: 0.9"))
    seen.add(made_from("a"))
    (project / "params.yaml").write_text(text)
    (project / "methods/dpo.py").write_text("x = 2\n")
    seen.add(made_from("a"))
    (project / "data/more.jsonl").write_text("{}\n")
    seen.add(made_from("a"))
    assert len(seen) == 4
    assert scratch_folder("demo@a", made_from("a")) != scratch_folder("demo@a", first)


def test_atomic_folder_replaces_what_was_there(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "x") as folder:
            (folder / text).write_text(text)
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["new"]


def test_outputs_refuse_what_json_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    write_jsonl(tmp_path / "x.jsonl", [{"text": "ε\u2028\n"}])
    assert read_jsonl(tmp_path / "x.jsonl") == [{"text": "ε\u2028\n"}]
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a": ')
    with pytest.raises(UserError, match="line 2"):
        read_jsonl(tmp_path / "x.jsonl")


@pytest.mark.parametrize("run", ["", "c"])
def test_a_run_that_params_does_not_hold_is_named(project: Path, run: str) -> None:
    with pytest.raises(SystemExit) as end, run_stage("demo", run):
        raise AssertionError("not reached")
    assert "one of a, b" in str(end.value.code)


def test_a_missing_input_is_one_sentence(project: Path) -> None:
    (project / "data" / "rows.jsonl").unlink()
    (project / "data").rmdir()
    with pytest.raises(SystemExit) as end, run_stage("demo", "a"):
        raise AssertionError("not reached")
    assert "data does not exist" in str(end.value.code)


def test_one_of_several_processes_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks would each replace the other's output folder."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as end, run_stage("demo", "a"):
        raise AssertionError("not reached")
    assert "one of 2 processes" in str(end.value.code)


def test_a_large_file_is_read_once_until_it_changes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, read = [], fingerprint_module.hashlib.file_digest
    monkeypatch.setattr(fingerprint_module.hashlib, "file_digest", lambda *args: reads.append(1) or read(*args))
    model = project / "out/sft/model"
    model.mkdir(parents=True)
    (model / "weights").write_bytes(bytes(fingerprint_module.REMEMBERED_BYTES))
    (model / "config").write_text("{}")
    time.sleep(0.05)  # a file that has just been written is not trusted
    first = digest(model)
    assert len(reads) == 2
    (project / "out/align").mkdir()
    model.rename(project / "out/align/model")  # as a stage's output does
    assert digest(project / "out/align/model") == first and len(reads) == 3, "the small one, and not the large one"
    weights, times = project / "out/align/model/weights", (project / "out/align/model/weights").stat()
    weights.write_bytes(b"1" + bytes(fingerprint_module.REMEMBERED_BYTES - 1))
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))  # as `cp -p` and `rsync -t` do
    assert digest(project / "out/align/model") != first and len(reads) == 5
    (project / "scratch/digests.json").write_text("{")
    weights.write_bytes(bytes(fingerprint_module.REMEMBERED_BYTES))
    assert digest(project / "out/align/model") == first


def output_of(code: str) -> str:
    return subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT)


def test_heavy_imports_start_the_tracking_and_leave_the_garbage_collector_as_it_was() -> None:
    """In a process of its own, where the collector's settings are nobody else's."""
    said = output_of(
        "import gc; from epsilon_dpo.pipeline.observability import tracker\n"
        "from epsilon_dpo.pipeline.stage.execution import heavy_imports\n"
        "with heavy_imports(): print(gc.isenabled(), len(tracker._waiting))\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 0)"
    )
    assert said == "False 1\nTrue True\n"


def test_what_takes_seconds_is_imported_in_heavy_imports_and_nothing_starts_before() -> None:
    """Else MLflow is imported after it and not beside it."""
    light = [
        ast.unparse(node)
        for file in sorted((ROOT / "stages").glob("*.py"))
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    heavy = {"torch", "transformers", "scipy", "matplotlib", "great_expectations", "pandas"}
    loaded = output_of(
        "import sys; sys.argv = ['-m']; import stages\n" + "\n".join(light) + f"\nprint({heavy} & set(sys.modules))\n"
        "from epsilon_dpo.pipeline.observability import tracker; print(tracker._waiting)"
    )
    assert len(light) > 50 and loaded == "set()\n[]\n"


def test_code_of_another_project_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As an editable install is, for an experiment in a copy: DVC would record the copy's hash."""
    ours = project / "src" / "epsilon_dpo"
    (ours / "pipeline").mkdir(parents=True)
    (project / "external").mkdir()
    os.chdir(project / "external")
    with pytest.raises(SystemExit) as refused, run_stage("demo", "a"):
        raise AssertionError("the block must not run")
    said = str(refused.value)
    assert str(ROOT / "src" / "epsilon_dpo") in said and str(ours) in said and "export PYTHONPATH=../src" in said


def test_a_part_of_a_folder_that_nobody_pulled_is_named(project: Path) -> None:
    """A comparison depends on all of out/score, of which a clone may have one run's."""
    (project / "out/score/a").mkdir(parents=True)
    with pytest.raises(SystemExit) as refused, run_stage("demo", "a"):
        read_jsonl(Path("out/score/b/records.jsonl"))
    assert str(refused.value).startswith("ERROR in stage demo@a: out/score/b/records.jsonl is not here: `dvc pull`")
    with pytest.raises(FileNotFoundError), run_stage("demo", "a"):
        read_jsonl(Path("out/score/a/recrods.jsonl"))  # a slip of ours keeps its traceback


EDITS = {
    "params.yaml: runs.a": ("params.yaml", "method: dpo, beta: 0.1", "method: dpo, beta: 0.3"),
    "params.yaml: seed": ("params.yaml", "seed: 1", "seed: 2"),
    "methods/dpo.py": ("methods/dpo.py", "x = 1", "x = 2"),
    "data": ("data/rows.jsonl", "{}", "{} "),
    "cmd in dvc.yaml": ("dvc.yaml", "stages.demo", "stages.other"),
    "is not valid YAML": ("params.yaml", "seed: 1", "seed: [1"),
    "works on one run, one of b": ("params.yaml", "  a: {", "  # a: {"),
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edit_while_a_stage_runs_is_not_recorded_as_what_made_the_result(project: Path, what: str) -> None:
    """DVC reads the inputs again when the stage has ended, and names the result by them in its run cache, too."""
    name, old, new = EDITS[what]
    text = (project / name).read_text()
    assert old in text
    with pytest.raises(SystemExit) as end, run_stage("demo", "a") as stage:
        stage.scratch.mkdir(parents=True)
        (stage.out / "result").write_text("of the old inputs")
        (project / name).write_text(text.replace(old, new))
    assert what in str(end.value.code) and "nothing is published" in str(end.value.code)
    assert list((project / "out").rglob("*")) == [project / "out/demo"]
    (project / name).write_text(text)
    with run_stage("demo", "a") as again:
        assert again.scratch.exists(), "the work is lost, though the edit was undone"


def test_a_file_that_goes_away_while_it_is_read_is_one_sentence(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the one that vim makes for a moment: it was listed, and the stage ended in a traceback after its work."""
    seen = fingerprint_module.seen_files
    with pytest.raises(SystemExit) as end, run_stage("demo", "a"):
        monkeypatch.setattr(fingerprint_module, "seen_files", lambda folder: [*seen(folder), folder / "4913"])
    assert "data/4913 was removed while data was being read" in str(end.value.code)
    assert "nothing is published" in str(end.value.code)


def test_what_dvc_ignores_changes_no_inputs(project: Path) -> None:
    """Else a swap file at the start or the end of a training would cost its checkpoints."""
    (project / ".dvcignore").write_bytes((ROOT / ".dvcignore").read_bytes())
    before = digest(project / "data")
    for name in (".rows.jsonl.swp", "rows.jsonl~", ".DS_Store", "#rows.jsonl#", ".#rows.jsonl", "x.pyc"):
        (project / "data" / name).write_text("left over")
    (project / "data/.ipynb_checkpoints").mkdir()
    (project / "data/.ipynb_checkpoints/rows.jsonl").write_text("left over")
    assert digest(project / "data") == before
    (project / "data/more.jsonl").write_text("{}")
    assert digest(project / "data") != before


def test_in_a_folder_with_rules_of_its_own_those_of_the_project_hold_too(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in external/, whose stages depend on code beside that folder; a project of DVC's within has its own alone."""
    for name in ("", "external", "data/own"):
        (project / name).mkdir(parents=True, exist_ok=True)
    for name in (".dvcignore", "external/.dvcignore"):
        (project / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.chdir(project / "external")
    before = digest(Path("../data"))
    for name in (".rows.jsonl.swp", "rows.jsonl~"):
        (project / "data" / name).write_text("left over")
    assert digest(Path("../data")) == before
    (project / "data/more.jsonl").write_text("{}")
    assert digest(Path("../data")) != before
    (project / "data/own/.dvc").mkdir()
    monkeypatch.chdir(project / "data/own")
    before = digest(Path())
    Path("rows.jsonl~").write_text("no rule here says that it is left over")
    assert digest(Path()) != before


def test_ctrl_c_while_a_stage_imports_is_one_line() -> None:
    command = [sys.executable, "-c", "import stages; raise KeyboardInterrupt"]
    ended = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert ended.returncode in (130, -signal.SIGINT)
    assert ended.stderr == "the stage was interrupted before it began.\n"
