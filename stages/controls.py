"""controls: what the judge says where the answer is known, and what it says of the reference."""

from pathlib import Path

from epsilon_dpo.judging.scoring.params import ScoreView
from epsilon_dpo.pipeline.stage.execution import heavy_imports, run_stage
from epsilon_dpo.pipeline.stage.params import load

with heavy_imports(computes=True):
    from epsilon_dpo.judging.judges.loading import load_judge
    from epsilon_dpo.judging.scoring.intervals import Intervals
    from epsilon_dpo.judging.scoring.score_answers import score_controls
    from epsilon_dpo.judging.scoring.scoring import known_truth
    from epsilon_dpo.pipeline.stage.runtime import set_up

with run_stage("controls") as stage:
    params = load(ScoreView)
    set_up(params.seed, params.threads)
    metrics, facts = score_controls(
        load_judge(Path("out/judge"), stage.journal),
        known_truth(Path("out/validate/dataset.json")),
        reference=Path("out/reference/samples.jsonl"),
        pairs=Path("out/validate/eval.jsonl"),
        intervals=Intervals(params.confidence, params.seed),
        seed=params.seed,
        out=stage.out,
    )
    stage.tracker.log_metrics(metrics)
    stage.summary = (
        f"chosen beats rejected in {metrics['win_rate/chosen_vs_rejected']:.1%}; "  # of pairs, each once
        f"SFT beats chosen in {metrics['win_rate/sft_vs_chosen']:.1%} of {facts['n']} answers"
    )
