"""sample: a policy's answers to the held-out prompts. `python -m stages.sample RUN`"""

from pathlib import Path

from epsilon_dpo.fingerprint import digest
from epsilon_dpo.outputs import read_jsonl, write_json, write_jsonl
from epsilon_dpo.params.sample import SampleView
from epsilon_dpo.params.strict import load
from epsilon_dpo.runs import make_place, policy_paths
from epsilon_dpo.runtime import set_up
from epsilon_dpo.sampling import answer, select, summary
from epsilon_dpo.stage import run_argument, run_stage

run = run_argument()
with run_stage("sample", run) as stage:
    params = load(SampleView)
    set_up(params.seed, params.threads, params.sample.processes)
    aligned = Path("out/align") / run
    rows = select(read_jsonl(Path("out/validate/eval.jsonl")), params.sample.turns, params.sample.max_prompts)
    for place in policy_paths(aligned):  # the final policy comes last
        policy, out = aligned / place / "model", make_place(stage.out, place)
        samples = answer(policy, rows, params.sample, params.seed, params.threads, stream="policy")
        metrics = summary(samples)
        facts = {"temperature": params.sample.temperature, "policy_sha256": digest(policy)}
        write_jsonl(out / "samples.jsonl", samples)
        write_json(out / "metrics.json", {**metrics, **facts})
    stage.tracker.log_metrics(metrics)
    stage.summary = f"{len(samples)} answers, {metrics['mean_tokens']:.1f} tokens on average"
