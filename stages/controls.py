"""controls: what the judge says where the answer is known, and what it says of the reference."""

from pathlib import Path

from epsilon_dpo.contests import control_contests
from epsilon_dpo.judges.loading import load_judge
from epsilon_dpo.outputs import read_jsonl, write_json, write_jsonl
from epsilon_dpo.params.score import ScoreView
from epsilon_dpo.params.strict import load
from epsilon_dpo.runtime import set_up
from epsilon_dpo.scoring import (
    Intervals,
    by_opponent,
    judge_contests,
    known_truth,
    refuse_preference_among_equals,
)
from epsilon_dpo.stage import run_stage

with run_stage("controls") as stage:
    params = load(ScoreView)
    set_up(params.seed, params.threads)
    reference = read_jsonl(Path("out/reference/samples.jsonl"))
    contests = control_contests(reference, read_jsonl(Path("out/validate/eval.jsonl")), params.seed)
    judge = load_judge(Path("out/judge"))
    records = judge_contests(judge, contests, known_truth(Path("out/validate/dataset.json")))
    refuse_preference_among_equals(records)
    metrics = by_opponent(records, Intervals(params.confidence, params.seed)) | judge.usage()
    write_jsonl(stage.out / "records.jsonl", records)
    write_json(stage.out / "metrics.json", {**metrics, "confidence": params.confidence, "n": len(reference)})
    stage.tracker.log_metrics(metrics)
    stage.summary = (
        f"chosen beats rejected in {metrics['win_rate/chosen_vs_rejected']:.1%}, "
        f"SFT beats chosen in {metrics['win_rate/sft_vs_chosen']:.1%} of {len(reference)}"
    )
