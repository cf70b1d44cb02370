"""judge: the pairwise scorer, and how often it agrees with the labels of the evaluation pairs."""

from pathlib import Path

from epsilon_dpo.contests import label_contests
from epsilon_dpo.judges.interface import Question
from epsilon_dpo.judges.sources import build
from epsilon_dpo.outputs import read_jsonl, write_json
from epsilon_dpo.params.judge import JudgeView
from epsilon_dpo.params.strict import load
from epsilon_dpo.runtime import set_up
from epsilon_dpo.scoring import Intervals, judge_contests, known_truth, label_accuracy
from epsilon_dpo.stage import run_stage

with run_stage("judge") as stage:
    params = load(JudgeView)
    set_up(params.seed, params.threads)
    validated = Path("out/validate")
    training = [Question(c.prompt, c.a, c.b) for c in label_contests(read_jsonl(validated / "train.jsonl"))]
    judge = build(params.judge, training, params.seed, stage.out, stage.scratch, stage.tracker.log_metrics)
    evaluation = label_contests(read_jsonl(validated / "eval.jsonl"))
    records = judge_contests(judge, evaluation, known_truth(validated / "dataset.json"))
    metrics = label_accuracy(records, Intervals(params.confidence, params.seed)) | judge.usage()
    write_json(stage.out / "metrics.json", metrics)
    stage.tracker.log_metrics(metrics)
    stage.summary = f"agrees with {metrics['accuracy']:.1%} of {len(records)} labels"
