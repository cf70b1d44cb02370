"""verdicts: the benchmark's tool judges the answers, in its own environment. `python verdicts.py RUN` in external/"""

from pathlib import Path

from epsilon_dpo.external.benchmarks.params import VerdictsView
from epsilon_dpo.external.export.formats import answer_file
from epsilon_dpo.external.verdicts.judging import verdict_on
from epsilon_dpo.pipeline.stage.execution import run_argument, run_stage
from epsilon_dpo.pipeline.stage.files import read_json, write_json, write_jsonl
from epsilon_dpo.pipeline.stage.params import load

name = run_argument()
with run_stage("verdicts", name) as stage:
    params = load(VerdictsView)
    run = params.runs[name]
    verdict = verdict_on(name, run, params.judge, answer_file(name, run, Path("out/export") / name))
    answered = read_json(Path("out/answers") / name / "metrics.json")
    metrics = {**verdict.metrics, **{key: answered[key] for key in ("mean_tokens", "truncated_share")}}
    facts = {
        "judge": getattr(params.judge, run.benchmark).model,
        "tool": verdict.tool,
        "policy_sha256": answered["policy_sha256"],
    }
    write_jsonl(stage.out / "verdicts.jsonl", verdict.rows)
    write_json(stage.out / "metrics.json", {**metrics, **facts})
    stage.tracker.log_metrics(metrics)
    if run.policy != "sft":  # the scores are on the policy's own row of MLflow too, beside its win rates and its KL
        scores = {f"{run.benchmark}/{key}": value for key, value in verdict.metrics.items()}
        stage.tracker.log_to_policy(facts["policy_sha256"], scores, run.policy.removeprefix("align/"))
    headline = next(key for key in ("lc_win_rate", "win_rate", "score") if key in metrics)
    stage.summary = (
        f"{headline} {metrics[headline]:.2f} on {metrics['n']} questions, {metrics['n_missing']} without verdict"
    )
