"""score: a run's answers, judged against the chosen ones and the reference's. `python -m stages.score RUN`"""

from pathlib import Path

from epsilon_dpo.judging.scoring.params import ScoreView
from epsilon_dpo.pipeline.stage.execution import heavy_imports, run_argument, run_stage
from epsilon_dpo.pipeline.stage.params import load

with heavy_imports(computes=True):
    from epsilon_dpo.judging.judges.loading import load_judge
    from epsilon_dpo.judging.scoring.intervals import Intervals
    from epsilon_dpo.judging.scoring.score_answers import score_run
    from epsilon_dpo.judging.scoring.scoring import known_truth
    from epsilon_dpo.pipeline.stage.runtime import set_up

run = run_argument()
with run_stage("score", run) as stage:
    params = load(ScoreView)
    set_up(params.seed, params.threads)
    metrics, facts = score_run(
        load_judge(Path("out/judge"), stage.journal),
        known_truth(Path("out/validate/dataset.json")),
        sampled=Path("out/sample") / run,
        reference=Path("out/reference/samples.jsonl"),
        intervals=Intervals(params.confidence, params.seed),
        out=stage.out,
    )
    stage.tracker.set_tags({"policy_sha256": facts["policy_sha256"]})
    stage.tracker.log_metrics(metrics)
    stage.tracker.log_to_policy(facts["policy_sha256"], metrics)
    stage.summary = (
        f"beats chosen in {metrics['win_rate/chosen']:.1%}, SFT in {metrics['win_rate/sft']:.1%} "
        f"({metrics['win_rate/sft_low']:.1%} to {metrics['win_rate/sft_high']:.1%}) of {facts['n']}"
    )
