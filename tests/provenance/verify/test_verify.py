"""`epsilon-dpo verify` on a small project with real DVC: verdicts, places, causes, certificates."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.pipeline.stage.manifest import file_md5
from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.provenance.verify.verify import chosen

Verify = Callable[..., str]


def certificates() -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(Path("certificates").glob("*.json"))]


def state() -> dict[str, tuple[int, int]]:
    """What must not change: every file of the project, but for scratch/, certificates/ and DVC's own notes."""
    skipped = ("./scratch", "./certificates", "./.dvc/tmp", "./.git")
    return {
        str(file): (file.stat().st_mtime_ns, file.stat().st_size)
        for file in Path().rglob("*")
        if file.is_file() and not f"./{file}".startswith(skipped)
    }


def test_what_comes_out_again_is_bit_equal_and_nothing_else_changes(project: Path, verify: Verify) -> None:
    before = state()
    said = verify().splitlines()
    assert [line.split()[:2] for line in said[:3]] == [[name, "bit-equal"] for name in ("data", "train", "evaluate")]
    assert said[3].startswith("of 3 stages 3 bit-equal; the certificate is certificates/")
    assert state() == before
    assert os.listdir("scratch/partial") == [] and not Path("scratch/verify").exists()


def test_what_is_run_again_writes_nothing_into_the_store_of_a_team(
    project: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There its row would pass for that of the recorded result."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert verify("data").split()[:2] == ["data", "bit-equal"]


def test_the_certificate_speaks_of_contents_and_of_no_place(project: Path, verify: Verify) -> None:
    verify("--folder", str(project.parent / "clean"))
    (found,) = certificates()
    assert found["stages"]["train"]["verdict"] == "bit-equal"
    lock = Path("dvc.lock").read_text()
    assert found["stages"]["train"]["outs"]["out/train"]["md5"] in lock
    assert found["stages"]["train"]["outs"]["out/train"]["sha256"] == digest(Path("out/train"))
    assert "evaluate" not in found["stages"], "it shows the certificates, so its bytes follow from them"
    assert found["stages_of_the_pipeline"] == 2
    text = json.dumps(found)
    assert str(project.parent) not in text and os.uname().nodename not in text.replace("Linux", "")
    verify("data", "train")
    assert certificates() == [found], "the same finding is the same file"


def test_a_stage_that_has_yet_to_show_the_certificate_is_no_failure(project: Path, verify: Verify) -> None:
    verify()
    said = verify()
    assert (
        "not run again" in said and "certificates changed after dvc.lock recorded its result; run `dvc repro`" in said
    )
    subprocess.run(["dvc", "repro", "-q"], check=True)
    assert "of 3 stages 3 bit-equal" in verify()
    assert len(certificates()) == 1


def test_another_rounding_is_within_tolerance_and_is_laid_to_the_processor(
    project: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    said = verify("train")
    assert said.startswith("train                    equal within tolerance")
    assert "the tolerance is 1.7e-05, relative, after 20 steps" in said
    assert "out/train/metrics.jsonl: step 20, loss: recorded 0.05, now 0.050000015 (relative 1.5e-07)" in said
    assert "model.safetensors: tensor layers.9.w[2]: recorded 1.0, now 1.00000059" in said, "9 before 10"
    assert "2 tensors differ, by at most 6.0e-07" in said
    cause = "processor features: run once more without ATEN_CPU_CAPABILITY=default, it is bit-equal"
    assert f"likely cause: {cause}" in said
    (found,) = certificates()
    assert found["stages"]["train"]["likely_cause"] == cause
    assert found["environment"]["processor.variables"] == "ATEN_CPU_CAPABILITY=default"


def test_what_is_larger_than_rounding_is_different_and_its_bytes_are_kept(
    project: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOVED", "0.1")
    said = verify(code=1)
    assert "train                    different" in said and "relative 5.0e-02" in said
    assert "likely cause: unknown: MLflow has no record of it, and a second run here gave the same bytes" in said
    assert "larger than rounding" in said
    assert "evaluate                 bit-equal" in said, "it was given the recorded input"
    assert "ERROR: of 3 stages 2 bit-equal, 1 different; the first to differ is train (unknown: " in said
    assert "; what differs is in scratch/verify/different." in said
    kept = Path("scratch/verify/different/out/train/metrics.jsonl").read_text()
    assert "0.055" in kept and "0.055" not in Path("out/train/metrics.jsonl").read_text()


def test_two_runs_that_differ_from_one_another_are_not_laid_to_a_processor(
    project: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RACE", "1")
    assert "likely cause: not deterministic here: two runs with the same inputs" in verify("train", code=1)
    assert "not deterministic" not in verify("train", "--no-trials", code=1)


def test_other_rows_are_data_order(project: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVERSED", "1")
    said = verify(code=1)
    assert "out/rows.jsonl: line 1: recorded row a/0, now row a/2" in said
    assert "likely cause: data order: out/rows.jsonl has the same rows" in said


def test_the_original_comes_from_the_cache_when_the_workspace_has_another(
    project: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("out/rows.jsonl").unlink()
    Path("out/train/metrics.jsonl").write_text("changed by hand")
    assert verify("train").startswith("train                    bit-equal")
    monkeypatch.setenv("MOVED", "0.1")
    assert "step 20, loss: recorded 0.05, now 0.055" in verify("train", "--no-trials", code=1)


def test_a_second_run_that_fails_is_not_taken_for_another_result(
    project: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = project.parent / "once"
    code = f"""
import sys
from pathlib import Path

once = Path({str(once)!r})
if once.exists():
    sys.exit("out of luck")
Path("out").mkdir(exist_ok=True)
if Path({str(project)!r}) != Path.cwd():
    once.touch()
Path("out/rows.jsonl").write_text("a" if Path({str(project)!r}) == Path.cwd() else "b")
"""
    Path("data.py").write_text(code)
    subprocess.run(["dvc", "repro", "-q"], check=True)
    said = verify("data", code=1)
    assert "not deterministic" not in said and "the second run failed: out of luck" in said


def test_an_input_that_is_nowhere_is_said(project: Path, verify: Verify) -> None:
    md5 = read_yaml(Path("dvc.lock"))["stages"]["data"]["outs"][0]["md5"]
    Path("out/rows.jsonl").unlink()
    cached = Path(".dvc/cache/files/md5", md5[:2], md5[2:])
    cached.chmod(0o644)
    cached.unlink()
    said = verify("train", code=1)
    assert "neither the workspace nor DVC's cache has its input out/rows.jsonl as recorded" in said
    assert "of 3 stages" in verify(), "all of them together need none"


def test_an_input_whose_copy_in_the_cache_is_damaged_is_said(project: Path, verify: Verify) -> None:
    md5 = read_yaml(Path("dvc.lock"))["stages"]["data"]["outs"][0]["md5"]
    Path("out/rows.jsonl").unlink()
    cached = Path(".dvc/cache/files/md5", md5[:2], md5[2:])
    cached.chmod(0o644)
    cached.write_bytes(cached.read_bytes()[:-5])
    said = verify("train", code=1)
    assert f"what DVC's cache has of its input out/rows.jsonl is damaged: remove {cached.absolute()} and run" in said


def test_the_file_that_is_named_as_damaged_is_the_one_that_is(project: Path, verify: Verify) -> None:
    """Of an output whose other files, which are intact, are read from the workspace."""
    weights = Path("out/train/model/model.safetensors")
    md5 = file_md5(weights)
    weights.write_bytes(b"others")
    cached = Path(".dvc/cache/files/md5", md5[:2], md5[2:])
    cached.chmod(0o644)
    cached.write_bytes(cached.read_bytes()[:-5])
    said = verify("evaluate", code=1)
    assert f"what DVC's cache has of its input out/train is damaged: remove {cached.absolute()} and run" in said


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("train.py", "print()\n", "train.py changed after dvc.lock recorded its result; run `dvc repro`"),
        ("params.yaml", "seed: 2\n", "seed of params.yaml changed after"),
    ],
)
def test_a_result_of_other_code_or_params_is_not_verified(
    project: Path, verify: Verify, file: str, text: str, said: str
) -> None:
    Path(file).write_text(text)
    printed = verify("train", "data", code=1)
    assert said in printed and "of 2 stages 1 bit-equal, 1 not run again" in printed
    assert "train" not in certificates()[0]["stages"]


def test_a_command_that_fails_is_said_in_its_own_words(
    project: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOVED", "many")
    said = verify("train", code=1)
    assert "train                    failed" in said and "could not convert string to float: 'many'" in said
    assert certificates() == [], "nothing was compared"
    verify("train", "data", code=1)
    stages = certificates()[0]["stages"]
    assert stages["data"]["verdict"] == "bit-equal" and stages["train"]["verdict"] == "failed"
    assert "could not convert string to float: 'many'" in stages["train"]["failed"]


def test_a_file_of_a_name_that_is_no_utf8_is_copied_as_any(project: Path, verify: Verify) -> None:
    Path(os.fsdecode(b"caf\xe9.txt")).touch()
    assert "bit-equal" in verify()


def test_a_sample_is_the_same_for_the_same_results(project: Path, verify: Verify) -> None:
    drawn = [line.split()[0] for line in verify("--sample", "1").splitlines()[:-1]]
    assert len(drawn) == 1
    assert verify("--sample", "1").startswith(drawn[0])
    assert "of 3 stages" in verify("--sample", "99")


def test_a_stage_without_a_run_is_that_of_all_runs(tmp_path: Path) -> None:
    names = ("base", "sft", "align@dpo", "align@dpo_long", "score@dpo")
    stages = [SimpleNamespace(addressing=name) for name in names]
    project: Any = SimpleNamespace(root=tmp_path, stages=stages)

    def asked(*stages: str) -> list[str]:
        return [stage.addressing for stage in chosen(project, stages, None)]

    assert asked("align") == ["align@dpo", "align@dpo_long"]
    assert asked("align@dpo", "base") == ["base", "align@dpo"], "in the order of dvc repro"
    assert asked() == list(names)


def test_refusals(project: Path, verify: Verify) -> None:
    assert "dvc.yaml has no stage 'sft'" in verify("sft", code=1)
    Path("full").mkdir()
    Path("full/file").write_text("")
    assert "full is not empty" in verify("--folder", "full", code=1)
    Path("dvc.lock").unlink()
    assert "there is no dvc.lock" in verify(code=1)
