"""reference: the SFT policy's answers to the held-out prompts, the yardstick of score and kl."""

from pathlib import Path

from epsilon_dpo.pipeline.stage.execution import heavy_imports, run_stage
from epsilon_dpo.pipeline.stage.files import read_jsonl
from epsilon_dpo.pipeline.stage.params import load
from epsilon_dpo.sampling.answers.params import SampleView

with heavy_imports(computes=True):
    from epsilon_dpo.sampling.answers.sample_answers import sample_policy
    from epsilon_dpo.sampling.answers.sampling import select

with run_stage("reference") as stage:
    params = load(SampleView)
    rows = select(read_jsonl(Path("out/validate/eval.jsonl")), params.sample.turns, params.sample.max_prompts)
    metrics = sample_policy(
        Path("out/sft/model"), rows, params.sample, params.seed, params.threads, "reference", stage.out, stage.scratch
    )
    stage.tracker.log_metrics(metrics)
    stage.summary = f"{metrics['n']} answers of the SFT policy, {metrics['mean_tokens']:.1f} tokens on average"
