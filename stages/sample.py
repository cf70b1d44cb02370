"""sample: a policy's answers to the held-out prompts. `python -m stages.sample RUN`"""

from pathlib import Path

from epsilon_dpo.pipeline.stage.execution import heavy_imports, run_argument, run_stage
from epsilon_dpo.pipeline.stage.files import read_jsonl
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.pipeline.stage.params import load
from epsilon_dpo.sampling.answers.params import SampleView

with heavy_imports(computes=True):
    from epsilon_dpo.sampling.answers.sample_answers import sample_run
    from epsilon_dpo.sampling.answers.sampling import select

run = run_argument()
with run_stage("sample", run) as stage:
    params = load(SampleView)
    rows = select(read_jsonl(Path("out/validate/eval.jsonl")), params.sample.turns, params.sample.max_prompts)
    metrics = sample_run(
        Path("out/align") / run, rows, params.sample, params.seed, params.threads, stage.out, stage.scratch
    )
    stage.tracker.set_tags({"policy_sha256": digest(Path("out/align") / run / "model")})
    stage.tracker.log_metrics(metrics)
    stage.summary = f"{metrics['n']} answers, {metrics['mean_tokens']:.1f} tokens on average"
