"""judge: the pairwise scorer, and how often it agrees with the labels of the evaluation pairs."""

from pathlib import Path

from epsilon_dpo.judging.making.params import JudgeView, TrainedRewardJudge
from epsilon_dpo.judging.scoring.comparisons import label_comparisons
from epsilon_dpo.pipeline.stage.execution import heavy_imports, run_stage
from epsilon_dpo.pipeline.stage.files import read_jsonl, write_json
from epsilon_dpo.pipeline.stage.params import load
from epsilon_dpo.training.loop.params import save_steps

with heavy_imports(computes=True):
    from epsilon_dpo.judging.judges.sentiment import Sentiment
    from epsilon_dpo.judging.making.sentiment_training import held_out_accuracy
    from epsilon_dpo.judging.making.sources import build, training_file
    from epsilon_dpo.judging.scoring.intervals import Intervals
    from epsilon_dpo.judging.scoring.scoring import judge_comparisons, known_truth, label_accuracy
    from epsilon_dpo.pipeline.launch.processes import take_gpus_of_launcher
    from epsilon_dpo.pipeline.stage.runtime import set_up

with run_stage("judge") as stage:
    params = load(JudgeView)
    if isinstance(params.judge, TrainedRewardJudge):
        take_gpus_of_launcher()
    set_up(params.seed, params.threads)
    validated = Path("out/validate")
    training = [pair.question for pair in label_comparisons(read_jsonl(validated / "train.jsonl"))]
    texts = validated / "labelled.jsonl"  # of fetch.source: reviews alone
    labelled = read_jsonl(texts) if texts.exists() else []
    judge = build(
        params.judge,
        training,
        params.seed,
        stage.out,
        stage.scratch,
        stage.tracker.log_metrics,
        labelled,
        save_steps=save_steps(),
    )
    evaluation = label_comparisons(read_jsonl(validated / "eval.jsonl"))
    records = judge_comparisons(judge, evaluation, known_truth(validated / "dataset.json"))
    metrics = label_accuracy(records, Intervals(params.confidence, params.seed)) | judge.usage()
    if isinstance(judge, Sentiment):
        metrics |= held_out_accuracy(judge, labelled, params.confidence)
    write_json(stage.out / "metrics.json", metrics)
    if (trained_on := training_file(params.judge)) is None:
        stage.write_manifest(stage.out)
    else:
        stage.write_manifest(stage.out, read=[validated / trained_on], dataset=validated / "dataset.json")
    stage.tracker.log_metrics(metrics)
    stage.summary = f"agrees with {metrics['accuracy']:.1%} of {len(records)} labels"
    if "classifier_accuracy" in metrics:
        stage.summary = (
            f"right on {metrics['classifier_accuracy']:.1%} of {metrics['classifier_accuracy_n']} held-out texts"
        )
