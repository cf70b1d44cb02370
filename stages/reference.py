"""reference: the SFT policy's answers to the held-out prompts, the yardstick of score and kl."""

from pathlib import Path

from epsilon_dpo.outputs import read_jsonl
from epsilon_dpo.params.sample import SampleView
from epsilon_dpo.params.strict import load
from epsilon_dpo.runtime import set_up
from epsilon_dpo.sample_answers import sample_policy
from epsilon_dpo.sampling import select
from epsilon_dpo.stage import run_stage

with run_stage("reference") as stage:
    params = load(SampleView)
    set_up(params.seed, params.threads, params.sample.processes)
    rows = select(read_jsonl(Path("out/validate/eval.jsonl")), params.sample.turns, params.sample.max_prompts)
    metrics = sample_policy(
        Path("out/sft/model"), rows, params.sample, params.seed, params.threads, "reference", stage.out
    )
    stage.tracker.log_metrics(metrics)
    stage.summary = f"{metrics['n']} answers of the SFT policy, {metrics['mean_tokens']:.1f} tokens on average"
