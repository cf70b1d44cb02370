"""The stages sft and align on files: what they send to MLflow, and what they read of params.yaml."""

import hashlib
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from untracked import run_untracked

from epsilon_dpo.judging.scorer.code import made_with
from epsilon_dpo.pipeline.stage import pins
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl, write_json, write_jsonl
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.pipeline.stage.manifest import file_md5, write_manifest
from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.training.loop.checkpoints import last_sealed_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PARAMS = read_yaml(ROOT / "params.yaml")
FEW = {"max_steps": 3, "batch_size": 4, "micro_batch_size": 4}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %} {{ 'w1' if m['role'] == 'user' else 'w2' }} {{ m['content'] }} "
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %} w2{% endif %}"
)


class Recorder:
    """In the place of the MLflow run: every point that it gets."""

    points: list[tuple[str, int]]

    def __init__(self, *_: Any) -> None:
        Recorder.points = []

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: Any) -> None: ...

    def set_tags(self, tags: dict[str, str]) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        Recorder.points += [(name, step or 0) for name in metrics]


def messages(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


@pytest.fixture
def project(
    sft_folder: Callable[..., Path],
    token_pairs: Callable[[int], list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """What both stages read, of a model with a vocabulary of 64."""
    for name in ("src", "stages", "dvc.yaml", "pins.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    write_params(tmp_path, PARAMS["runs"])
    out = tmp_path / "out"
    for folder in ("base", "sft", "pairs", "margins", "scorer/dpo", "scorer/rloo", "validate"):
        (out / folder).mkdir(parents=True)
    folder = sft_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(out / "base" / "tokenizer")
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(out / "base" / "model")
    folder.rename(out / "sft" / "model")
    for split, pairs in (("train", token_pairs(16)[:12]), ("eval", token_pairs(16)[12:])):
        write_jsonl(out / "pairs" / f"{split}.jsonl", pairs)
        write_jsonl(
            out / "validate" / f"{split}.jsonl",
            [
                {"id": pair["id"], "prompt": messages("user", f"w{n}")}
                | {"chosen": messages("assistant", "w7 w8"), "rejected": messages("assistant", "w9")}
                for n, pair in enumerate(pairs)
            ],
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    run_untracked(monkeypatch, Recorder)
    # it would outlive the test
    monkeypatch.setattr("epsilon_dpo.pipeline.stage.runtime.set_up", lambda seed, threads: None)
    return tmp_path


def write_params(project: Path, runs: dict[str, Any], save_steps: int = 3) -> None:
    few: dict[str, Any] = {name: PARAMS[name] | FEW for name in ("judge", "sft", "align")}
    few["judge"] |= {"mismatched_first": 0.0, "mismatched_share": 0.0}  # all pairs have the same answers
    few["checkpoints"] = {"save_steps": save_steps}
    content = {**PARAMS, "tokens": {"max_prompt_length": 32, "max_length": 64}, "runs": runs, **few}
    (project / "params.yaml").write_text(json.dumps(content), "utf-8")


def run(stage: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """`python -m stages.<stage> <arguments>` in this process."""
    monkeypatch.setattr(sys, "argv", [f"stages.{stage}", *arguments])
    runpy.run_module(f"stages.{stage}", run_name="__main__")


@pytest.mark.parametrize("stage", ["sft", "align"])
def test_an_evaluation_is_one_point_at_its_step(project: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    run(stage, monkeypatch, *(["dpo"] if stage == "align" else []))
    metrics = read_json(project / "out" / stage / ("metrics/dpo" if stage == "align" else "") / "metrics.json")
    evaluation = {name for name in metrics if name.startswith("eval_")}
    assert "eval_loss" in evaluation and metrics["steps"] == 3
    points = Counter(Recorder.points)
    assert {point: count for point, count in points.items() if point[0].startswith("eval_")} == {
        (name, 3): 1 for name in evaluation
    }
    rest = metrics.keys() - evaluation
    assert {name for name, step in points if step == 0} == rest and "train_loss" in rest


def test_a_wrong_entry_of_another_run_does_not_stop_a_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_params(project, {"d.po": {"method": "dpo", "beta": "much"}, "dpo": PARAMS["runs"]["dpo"]})
    run("align", monkeypatch, "dpo")
    assert (project / "out" / "align" / "metrics" / "dpo" / "metrics.json").is_file()


def test_an_online_run_learns_from_what_the_scorer_says(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"method": "rloo", "beta": 0.1, "k": 2, "prompts_per_step": 4, "steps": 2, "max_new_tokens": 6}
    write_params(project, {"rloo": entry})
    with pytest.raises(SystemExit, match="out/scorer/rloo holds no scorer, which an online run needs"):
        write_json(project / "out/scorer/rloo/scorer.json", {"source": None})
        run("align", monkeypatch, "rloo")
    write_json(project / "out/scorer/rloo/scorer.json", {"source": "true_reward", "clip": 0.75})
    question = messages("user", "Tell me about the Moon.")
    for split, count in (("train", 12), ("eval", 4)):
        pairs = read_jsonl(project / f"out/pairs/{split}.jsonl")[:count]
        asked = [{"id": pair["id"], "prompt_ids": pair["prompt_ids"], "prompt": question} for pair in pairs]
        write_jsonl(project / f"out/scorer/rloo/{split}_prompts.jsonl", asked)
    for changed in (None, {"code": "of another sampler"}, {"packages": {}}):  # as after an edit, or in an older project
        if changed is not None:
            write_json(project / "out/scorer/rloo/made_with.json", made_with() | changed)
        with pytest.raises(SystemExit, match="changed after stage scorer made out/scorer/rloo, so that"):
            run("align", monkeypatch, "rloo")
    write_json(project / "out/scorer/rloo/made_with.json", made_with())
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="vaderSentiment is 0 here"):
        real = pins.version
        patch.setattr(pins, "version", lambda name: "0" if name == "vaderSentiment" else real(name))
        run("align", monkeypatch, "rloo")
    run("align", monkeypatch, "rloo")
    metrics = read_json(project / "out/align/metrics/rloo/metrics.json")
    assert metrics["steps"] == 2 and metrics["eval_reward"] == -0.75, "no answer of this model is a sentence: -1, cut"
    assert ("eval_reward", 2) in Recorder.points and ("reward", 1) in Recorder.points


def test_without_sft_there_is_a_reference_and_no_curve(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.loads((project / "params.yaml").read_text("utf-8"))
    (project / "params.yaml").write_text(json.dumps(content | {"sft": None}), "utf-8")
    run("sft", monkeypatch)
    assert Recorder.points == []
    assert read_json(project / "out/sft/metrics.json") == {"steps": 0}
    run("align", monkeypatch, "dpo")
    assert read_json(project / "out/align/metrics/dpo/metrics.json")["steps"] == 3


def test_a_model_says_what_it_was_made_of(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sft and a run with a snapshot; what a page of the data contract looks like is in no manifest, and so no reason to
    train after it."""
    write_manifest(project / "out/base/model", "base", {"seed": 17})
    write_json(project / "out/validate/dataset.json", {"source": "dataset", "files": {"mine.jsonl": "ab"}})
    run("sft", monkeypatch)
    sft = read_json(project / "out/sft/model/manifest.json")
    assert (sft["stage"], sft["run"], sft["start"]["stage"]) == ("sft", None, "base")
    assert sft["read_md5"] == {"out/validate/train.jsonl": file_md5(project / "out/validate/train.jsonl")}
    assert sft["dataset"]["files"] == {"mine.jsonl": "ab"} and sft["params"]["sft"]["max_steps"] == 3
    assert sft["weights_sha256"] == {"model.safetensors": sha256(project / "out/sft/model/model.safetensors")}
    first = digest(project / "out/sft", whole=True)
    (project / "out/validate/validation.html").write_text("another page")
    shutil.rmtree(project / "out/sft")  # as DVC does
    run("sft", monkeypatch)
    assert digest(project / "out/sft", whole=True) == first

    write_params(project, {"dpo": PARAMS["runs"]["dpo"] | {"snapshot_epochs": 0.34}})
    run("align", monkeypatch, "dpo")
    policy = project / "out/align/dpo"
    said = read_json(policy / "model/manifest.json")
    assert (said["stage"], said["run"], said["start"]) == ("align", "dpo", sft) and "snapshot" not in said
    assert said["read_md5"] == {"out/pairs/train.jsonl": file_md5(project / "out/pairs/train.jsonl")}
    assert "save_steps" not in said["params"]["align"] and said["params"]["runs.dpo"]["beta"] == 0.3
    snapshots = [read_json(folder / "model/manifest.json") for folder in sorted(policy.glob("snapshots/*"))]
    assert snapshots and snapshots[0]["snapshot"]["step"] < 3
    assert snapshots[0]["weights_sha256"] != said["weights_sha256"] and snapshots[0]["start"] == sft
    assert str(project) not in (policy / "model/manifest.json").read_text("utf-8")
    sha = digest(policy / "model")
    (policy / "model/manifest.json").unlink()
    assert digest(policy / "model") == sha, "a policy is the same policy wherever it comes from"


def test_a_run_on_margins_says_that_it_was_made_of_them(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "eval"):
        ids = [pair["id"] for pair in read_jsonl(project / f"out/pairs/{split}.jsonl")]
        scores = [{"id": id_, "chosen_score": 1.0, "rejected_score": -1.0} for id_ in ids]
        write_jsonl(project / f"out/margins/{split}.jsonl", scores)
    (project / "out/scorer/madpo").mkdir()
    write_params(project, {"scored": {"method": "madpo", "beta": 0.1, "tau": 2.0}})
    run("align", monkeypatch, "scored")
    files = [f"out/{part}/train.jsonl" for part in ("pairs", "margins")]
    said = read_json(project / "out/align/scored/model/manifest.json")
    assert said["read_md5"] == {file: file_md5(project / file) for file in files}


def test_only_a_reference_that_no_step_saw_move_is_said_to_give_the_policy_of_dpo(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three steps; and not of a method that moves none."""
    follows = {"method": "tr_dpo", "beta": 0.3, "update": "hard"}
    runs = {name: follows | {"sync_steps": steps} for name, steps in (("never", 4), ("late", 3), ("once", 2))}
    runs["dpo"] = PARAMS["runs"]["dpo"]
    write_params(project, runs)
    (project / "out/scorer/tr_dpo").mkdir()
    ends = {}
    for name in runs:
        run("align", monkeypatch, name)
        ends[name] = capsys.readouterr().out.rstrip("\n").partition(" 3 steps")[2]
    dpo = "; no step saw a moved reference (sync_steps), so this is DPO's policy"
    assert ends == {"never": dpo, "late": dpo, "once": "", "dpo": ""}


def test_a_judge_is_measured_on_the_pairs_that_it_did_not_learn_from(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of which there are four; it learns from twelve."""
    write_json(project / "out/validate/dataset.json", {"true_reward": False, "preferences": True})
    run("judge", monkeypatch)
    assert read_json(project / "out/judge/metrics.json")["accuracy_n"] == 4
    assert capsys.readouterr().out.endswith(" of 4 labels\n")


def test_a_teacher_has_the_bytes_that_the_same_block_gives_a_judge(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So once a judge is the teacher, DVC sees nothing new in what policies are trained from, whoever judges then."""
    write_json(project / "out/validate/dataset.json", {"true_reward": False, "preferences": True})
    content = json.loads((project / "params.yaml").read_text("utf-8"))
    content["teacher"] = content["judge"]
    content["judge"] = {"source": "sentiment", "classifier": "vader", "clip": 4.0}
    files = []
    for blocks in (content, content | {"judge": content["teacher"], "teacher": None}):
        (project / "params.yaml").write_text(json.dumps(blocks), "utf-8")
        run("judge", monkeypatch)
        files.append({file.name: file.read_bytes() for file in (project / "out/teacher").iterdir()})
        logged = {name for name, _ in Recorder.points if name.startswith("teacher/")}
        assert {"teacher/accuracy", "teacher/loss"} <= logged if blocks["teacher"] else not logged
        Recorder.points.clear()
    assert files[0] == files[1] and {"judge.json", "model.safetensors", "metrics.json"} <= files[0].keys()
    assert "manifest.json" not in files[0], "which has both blocks"
    assert (project / "out/judge/manifest.json").is_file()


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.slow  # two processes that import torch, because a library keeps what it read once
def test_a_policy_does_not_depend_on_the_environment(project: Path) -> None:
    """bf16: false in params.yaml is float32, whatever accelerate is told elsewhere."""
    told = {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2"}
    weights, said = [], []
    for variables in ({}, told):
        env = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")} | variables
        env |= {"PYTHONPATH": str(ROOT / "src"), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
        done = subprocess.run([sys.executable, "-m", "stages.align", "dpo"], env=env, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr[-2000:]
        weights.append((project / "out/align/dpo/model/model.safetensors").read_bytes())
        said.append("not used, because params.yaml alone decides: ACCELERATE_GRADIENT_ACC" in done.stderr)
    assert weights[0] == weights[1] and said == [False, True]


@pytest.mark.slow
def test_a_stage_in_two_processes_leaves_the_files_that_it_leaves_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch, two_processes: Callable[[str], None]
) -> None:
    """Both have the stage's folder, and one writes to it. The second could not publish the snapshots once more."""
    write_params(project, {"followed": PARAMS["runs"]["epsilon_dpo"] | {"snapshot_epochs": 0.6}})
    (project / "out/scorer/epsilon_dpo").mkdir()
    run("align", monkeypatch, "followed")
    out = project / "out/align"
    alone = {file.relative_to(out) for file in out.rglob("*")}
    metrics = read_json(out / "metrics/followed/metrics.json")
    assert any("snapshots" in file.parts for file in alone)
    two_processes("ddp")
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-m", "stages.align", "followed"], env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {file.relative_to(out) for file in out.rglob("*")} == alone
    together = read_json(out / "metrics/followed/metrics.json")
    assert together.pop("processes") == 2 and together == pytest.approx(metrics, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("stage", ["judge", "sft", "align"])
def test_a_killed_stage_goes_on_although_how_often_is_saved_was_changed(
    project: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """From the checkpoint after step 2 of 3, in the folder that the stage's fingerprint names, to the same bytes."""
    write_json(project / "out/validate/dataset.json", {"true_reward": False, "preferences": True})
    arguments = ["dpo"] if stage == "align" else []
    out = project / "out" / stage / "".join(arguments)
    write_params(project, PARAMS["runs"], save_steps=1)
    run(stage, monkeypatch, *arguments)
    whole = {file.relative_to(out): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    child = multiprocessing.get_context("fork").Process(target=killed, args=(stage, monkeypatch, *arguments))
    child.start()
    child.join(120)
    (checkpoint,) = (project / "scratch").glob(f"{stage}*/checkpoint-2")
    assert child.exitcode == -signal.SIGKILL
    module = {
        "judge": "judging.making.pairrm_training",
        "sft": "training.sft.sft",
        "align": "training.alignment.alignment",
    }[stage]
    found = []
    monkeypatch.setattr(
        f"epsilon_dpo.{module}.last_sealed_checkpoint",
        lambda folder: found.append(last_sealed_checkpoint(folder)) or found[0],
    )
    write_params(project, PARAMS["runs"], save_steps=50)
    run(stage, monkeypatch, *arguments)
    assert [Path(path).resolve() for path in found] == [checkpoint.resolve()] and not checkpoint.exists()
    assert whole == {file.relative_to(out): file.read_bytes() for file in out.rglob("*") if file.is_file()}


def killed(stage: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """In a child process: run `stage` until it has logged step 3."""
    monkeypatch.setattr(
        Recorder, "log_metrics", lambda self, metrics, step=None: step == 3 and os.kill(os.getpid(), signal.SIGKILL)
    )
    run(stage, monkeypatch, *arguments)
