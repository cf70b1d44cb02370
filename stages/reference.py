"""reference: the SFT policy's answers to the held-out prompts, the yardstick of score and kl."""

from pathlib import Path

from epsilon_dpo.fingerprint import digest
from epsilon_dpo.outputs import read_jsonl, write_json, write_jsonl
from epsilon_dpo.params.sample import SampleView
from epsilon_dpo.params.strict import load
from epsilon_dpo.runtime import set_up
from epsilon_dpo.sampling import answer, select, summary
from epsilon_dpo.stage import run_stage

with run_stage("reference") as stage:
    params = load(SampleView)
    set_up(params.seed, params.threads, params.sample.processes)
    policy = Path("out/sft/model")
    rows = select(read_jsonl(Path("out/validate/eval.jsonl")), params.sample.turns, params.sample.max_prompts)
    samples = answer(policy, rows, params.sample, params.seed, params.threads, stream="reference")
    metrics = summary(samples)
    write_jsonl(stage.out / "samples.jsonl", samples)
    facts = {"temperature": params.sample.temperature, "policy_sha256": digest(policy)}
    write_json(stage.out / "metrics.json", {**metrics, **facts})
    stage.tracker.log_metrics(metrics)
    stage.summary = f"{len(samples)} answers of the SFT policy, {metrics['mean_tokens']:.1f} tokens on average"
