"""judge: the pairwise scorer, and the one that policies learn from; how often each agrees with the labels."""

import gc
import shutil
from pathlib import Path

from epsilon_dpo.judging.making.params import AnyJudge, JudgeView, TrainedRewardJudge
from epsilon_dpo.judging.scoring.comparisons import label_comparisons
from epsilon_dpo.pipeline.stage.execution import heavy_imports, run_stage
from epsilon_dpo.pipeline.stage.files import read_jsonl, write_json
from epsilon_dpo.pipeline.stage.fingerprint import MANIFEST
from epsilon_dpo.pipeline.stage.params import load
from epsilon_dpo.training.loop.params import save_steps

with heavy_imports(computes=True):
    import torch

    from epsilon_dpo.judging.judges.loading import teaching
    from epsilon_dpo.judging.judges.sentiment import Sentiment
    from epsilon_dpo.judging.making.pairrm_training import Track
    from epsilon_dpo.judging.making.sentiment_training import held_out_accuracy
    from epsilon_dpo.judging.making.sources import build, training_file
    from epsilon_dpo.judging.scoring.intervals import Intervals
    from epsilon_dpo.judging.scoring.scoring import judge_comparisons, known_truth, label_accuracy
    from epsilon_dpo.pipeline.launch.processes import take_gpus_of_launcher
    from epsilon_dpo.pipeline.stage.runtime import set_up

with run_stage("judge") as stage:
    params = load(JudgeView)
    if any(isinstance(block, TrainedRewardJudge) for block in (params.judge, params.teacher)):
        take_gpus_of_launcher()
    validated = Path("out/validate")
    training = [pair.question for pair in label_comparisons(read_jsonl(validated / "train.jsonl"))]
    evaluation = label_comparisons(read_jsonl(validated / "eval.jsonl"))
    texts = validated / "labelled.jsonl"  # of fetch.source: reviews alone
    labelled = read_jsonl(texts) if texts.exists() else []

    def make(block: AnyJudge, out: Path, scratch: Path, track: Track) -> dict[str, float]:
        """The judge of `block` in `out`; what metrics.json there says of it."""
        set_up(params.seed, params.threads)
        judge = build(block, training, params.seed, out, scratch, track, labelled, save_steps=save_steps())
        records = judge_comparisons(judge, evaluation, known_truth(validated / "dataset.json"))
        metrics = label_accuracy(records, Intervals(params.confidence, params.seed)) | judge.usage()
        if isinstance(judge, Sentiment):
            metrics |= held_out_accuracy(judge, labelled, params.confidence)
        write_json(out / "metrics.json", metrics)
        return metrics

    def in_short(metrics: dict[str, float]) -> str:
        if "classifier_accuracy" in metrics:
            held_out = metrics["classifier_accuracy_n"]
            return f"right on {metrics['classifier_accuracy']:.1%} of {held_out} held-out texts"
        return f"agrees with {metrics['accuracy']:.1%} of {len(evaluation)} labels"

    def log_teacher(metrics: dict[str, float], step: int = 0) -> None:
        stage.tracker.log_metrics({f"teacher/{name}": value for name, value in metrics.items()}, step)

    metrics = make(params.judge, stage.out, stage.scratch, stage.tracker.log_metrics)
    if (trained_on := training_file(params.judge)) is None:
        stage.write_manifest(stage.out)
    else:
        stage.write_manifest(stage.out, read=[validated / trained_on], dataset=validated / "dataset.json")
    stage.tracker.log_metrics(metrics)
    stage.summary = in_short(metrics)
    # Without a manifest, which has both blocks: another judge must not let the same teacher rank anew.
    if params.teacher is None:
        shutil.copytree(stage.out, stage.apart, ignore=shutil.ignore_patterns(MANIFEST), dirs_exist_ok=True)
    else:
        gc.collect()
        torch.cuda.empty_cache()  # of the judge, beside which the teacher is made
        with teaching():
            metrics = make(params.teacher, stage.apart, stage.scratch / "teacher", log_teacher)
        log_teacher(metrics)
        stage.summary += f"; teacher: {in_short(metrics)}"
