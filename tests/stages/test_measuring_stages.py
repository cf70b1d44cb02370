"""The stages that sample and measure policies, with what computes in its place: which model and rows each reads."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from untracked import Untracked, run_untracked

from epsilon_dpo.pipeline.stage.files import read_json, write_jsonl
from epsilon_dpo.pipeline.stage.fingerprint import digest, stage_entry

ROOT = Path(__file__).resolve().parents[2]
SAMPLER = """
  samples_per_prompt: 1
  temperature: 1.0
  logits: {top_p: 1.0, top_k: null, min_p: null, repetition_penalty: 1.0}
  stop: {tokens: [], strings: []}
  max_new_tokens: 16
  batch_size: 5
  backend: transformers
  max_prompts: null"""
PARAMS = f"""
seed: 3
threads: 2
confidence: 0.8
candidates:{SAMPLER.replace("samples_per_prompt: 1", "samples_per_prompt: 2")}
sample:{SAMPLER}
  turns: single
kl: {{batch_size: 2, token_chunk: 8}}
monotonicity: {{epsilon: 0.25, batch_size: 2, token_chunk: 8}}
runs: {{a: {{method: dpo}}}}
"""
SFT = Path("out/sft/model")


class Recorder(Untracked):
    """In the place of the MLflow run: in which order it hears what."""

    said: list[str]

    def __init__(self, *_: Any) -> None:
        Recorder.said = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        Recorder.said.append("metrics")

    def set_tags(self, tags: dict[str, str]) -> None:
        Recorder.said.append("policy")

    def log_to_policy(self, policy_sha256: str, metrics: dict[str, float], run: str | None = None) -> None:
        Recorder.said.append(f"its row: {', '.join(metrics)}")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's code in a folder of its own."""
    for name in ("src", "stages", "dvc.yaml", "pins.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "params.yaml").write_text(PARAMS, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    run_untracked(monkeypatch, Recorder)
    monkeypatch.setattr("epsilon_dpo.pipeline.stage.runtime.set_up", lambda seed, threads: None)
    return tmp_path


def run(stage: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """`python -m stages.<stage> <arguments>` in this process; folders that it depends on and nobody made are empty."""
    for dependency in map(Path, stage_entry(stage, *(arguments or (None,)))["deps"]):
        if not dependency.suffix:
            dependency.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(sys, "argv", [f"stages.{stage}", *arguments])
    runpy.run_module(f"stages.{stage}", run_name="__main__")


def test_the_reference_and_the_candidates_are_answers_of_the_sft_policy(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To other prompts, and from random numbers of their own."""
    asked: dict[str, Any] = {}

    def sample_policy(
        policy: Path, rows: list[Any], _params: Any, _seed: int, _threads: int, stream: str, *_: Any
    ) -> Any:
        asked["reference"] = policy, [row["id"] for row in rows], stream
        return {"n": len(rows), "mean_tokens": 1.0}

    def answer(policy: Path, rows: list[Any], *_: Any, stream: str, **__: Any) -> list[Any]:
        asked["candidates"] = policy, [row["id"] for row in rows], stream
        return []

    monkeypatch.setattr("epsilon_dpo.sampling.answers.sample_answers.sample_policy", sample_policy)
    monkeypatch.setattr("epsilon_dpo.sampling.answers.sampling.answer", answer)
    (project / "out/validate").mkdir(parents=True)
    for split, count in (("eval", 2), ("train", 1)):
        prompts = [[{"role": "user", "content": f"{split} {number}"}] for number in range(count)]
        rows = [{"id": f"{split}/{number}", "prompt": prompt} for number, prompt in enumerate(prompts)]
        write_jsonl(project / f"out/validate/{split}.jsonl", rows)
    run("reference", monkeypatch)
    run("candidates", monkeypatch)
    assert asked == {
        "reference": (SFT, ["eval/0", "eval/1"], "reference"),
        "candidates": (SFT, ["train/0"], "candidates"),
    }


def test_a_policys_decisions_are_those_on_the_evaluation_pairs_against_the_sft_policy(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def decisions(policy: Path, reference: Path, pairs: list[Any], *_: Any) -> list[Any]:
        asked.append((policy, reference, pairs))
        return [{"id": "decided"}] * 4

    shares = {"share/decreasing": 0.75, "share/increasing": 0.25}
    monkeypatch.setattr("epsilon_dpo.analysis.monotonicity.decisions.decisions", decisions)
    monkeypatch.setattr("epsilon_dpo.analysis.monotonicity.decisions.summary", lambda *_: shares)
    policy = Path("out/align/a/model")
    policy.mkdir(parents=True)
    (policy / "weights").write_text("of a")
    (project / "out/pairs").mkdir()
    for split in ("train", "eval"):
        write_jsonl(project / f"out/pairs/{split}.jsonl", [{"id": split}])
    run("monotonicity", monkeypatch, "a")
    assert asked == [(policy, SFT, [{"id": "eval"}])]
    facts = {"epsilon": 0.25, "policy_sha256": digest(policy)}
    assert read_json(project / "out/monotonicity/a/metrics.json") == shares | facts
    said = "as beta increases, the margin of 75.0% of 4 pairs decreases and of 25.0% increases\n"
    assert capsys.readouterr().out.endswith(said)


@pytest.mark.parametrize(
    ("under", "order"),
    [
        ("", ["policy", "metrics", "its row: kl_fwd_rb, kl_fwd_rb_se, kl_fwd_data, kl_rev_rb"]),
        ("top_p 0.9", ["metrics", "policy", "its row: kl_fwd_data"]),
    ],
)
def test_what_is_no_kl_of_a_policy_is_no_metric_of_its_model(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    under: str,
    order: list[str],
) -> None:
    """MLflow's record gives what follows the name of a policy to its model."""
    metrics = {"kl_fwd_rb": 1.0, "kl_fwd_rb_se": 0.5, "kl_fwd_data": 2.0, "kl_rev_rb": 3.0, "kl_rev_rb_se": 0.25}
    facts = {"policy_sha256": "of a"} | ({"sampled_under": under} if under else {})
    monkeypatch.setattr("epsilon_dpo.analysis.kl.records.kl_run", lambda *_, **__: (metrics, facts))
    run("kl", monkeypatch, "a")
    assert Recorder.said == order
    line = "KL(reference || policy) = 1.000 ± 0.500 nats per answer, reverse 3.000 ± 0.250\n"
    said = f"under {under}, so not the policy's KL: {line}" if under else line
    assert capsys.readouterr().out.endswith(f" s   {said}")
