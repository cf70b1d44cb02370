"""monotonicity: what ε-DPO would decide on each evaluation pair under a policy. `python -m stages.monotonicity RUN`"""

from pathlib import Path

from epsilon_dpo.analysis.monotonicity.params import MonotonicityView
from epsilon_dpo.pipeline.stage.execution import heavy_imports, run_argument, run_stage
from epsilon_dpo.pipeline.stage.files import read_jsonl, write_json, write_jsonl
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.pipeline.stage.params import load

with heavy_imports(computes=True):
    from epsilon_dpo.analysis.monotonicity.decisions import decisions, summary
    from epsilon_dpo.pipeline.stage.runtime import set_up

run = run_argument()
with run_stage("monotonicity", run) as stage:
    params = load(MonotonicityView)
    set_up(0, params.threads)  # nothing is drawn here
    policy = Path("out/align") / run / "model"
    pairs = read_jsonl(Path("out/pairs/eval.jsonl"))
    records = decisions(policy, Path("out/sft/model"), pairs, params.monotonicity, stage.journal)
    metrics = summary(records, pairs, params.confidence)
    facts = {"epsilon": params.monotonicity.epsilon, "policy_sha256": digest(policy)}
    write_jsonl(stage.out / "records.jsonl", records)
    write_json(stage.out / "metrics.json", {**metrics, **facts})
    stage.tracker.set_tags({"policy_sha256": digest(policy)})
    stage.tracker.log_metrics(metrics)
    stage.summary = (
        f"as beta increases, the margin of {metrics['share/decreasing']:.1%} of {len(records)} pairs decreases and of "
        f"{metrics['share/increasing']:.1%} increases"
    )
