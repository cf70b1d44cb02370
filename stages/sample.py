"""sample: a policy's answers to the held-out prompts. `python -m stages.sample RUN`"""

from pathlib import Path

from epsilon_dpo.outputs import read_jsonl
from epsilon_dpo.params.sample import SampleView
from epsilon_dpo.params.strict import load
from epsilon_dpo.runtime import set_up
from epsilon_dpo.sample_answers import sample_run
from epsilon_dpo.sampling import select
from epsilon_dpo.stage import run_argument, run_stage

run = run_argument()
with run_stage("sample", run) as stage:
    params = load(SampleView)
    set_up(params.seed, params.threads, params.sample.processes)
    rows = select(read_jsonl(Path("out/validate/eval.jsonl")), params.sample.turns, params.sample.max_prompts)
    metrics = sample_run(Path("out/align") / run, rows, params.sample, params.seed, params.threads, stage.out)
    stage.tracker.log_metrics(metrics)
    stage.summary = f"{metrics['n']} answers, {metrics['mean_tokens']:.1f} tokens on average"
