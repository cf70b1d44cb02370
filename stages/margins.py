"""margins: how far apart the two answers of each pair are, in nats; nothing unless params.yaml asks for margins."""

from pathlib import Path

from epsilon_dpo.judging.margins.params import MarginsView
from epsilon_dpo.pipeline.stage.execution import run_stage
from epsilon_dpo.pipeline.stage.files import write_json, write_jsonl
from epsilon_dpo.pipeline.stage.params import load

with run_stage("margins") as stage:
    params = load(MarginsView)
    usage: dict[str, float] = {}
    beside: dict[str, float] = {}  # in MLflow
    if params.margins is None:
        for split in ("train", "eval"):
            write_jsonl(stage.out / f"{split}.jsonl", [])
        stage.summary = "none"
    else:
        from epsilon_dpo.judging.judges.loading import load_judge, teaching  # nothing heavy is loaded for nothing
        from epsilon_dpo.judging.margins.margins import judged_scores, pair_questions, scaled_scores, true_scores
        from epsilon_dpo.pipeline.stage.runtime import set_up

        validated = Path("out/validate")
        asked = pair_questions(Path("out/pairs"), validated)
        texts = {split: [question for _, question in pairs] for split, pairs in asked.items()}
        if params.margins.source == "judge":
            set_up(0, params.threads)  # nothing is drawn here
            with teaching():
                judge = load_judge(Path("out/teacher"), stage.journal)
                judged = {split: judged_scores(judge, questions) for split, questions in texts.items()}
            scores = {split: of_split for split, (of_split, _) in judged.items()}
            usage = judge.usage()
            beside = usage | {f"{split}/refused_share": refused for split, (_, refused) in judged.items()}
        else:
            scores = {split: true_scores(questions, validated / "dataset.json") for split, questions in texts.items()}
        ids = {split: [id_ for id_, _ in pairs] for split, pairs in asked.items()}
        rows, metrics = scaled_scores(scores, ids, params.margins.temperature)
        for split, of_split in rows.items():
            write_jsonl(stage.out / f"{split}.jsonl", of_split)
        write_json(stage.out / "metrics.json", metrics)
        stage.tracker.log_metrics(metrics | beside, step=0)
        stage.summary = (
            f"{len(rows['train'])} training pairs, {metrics['train/mean_abs']:.2f} nats apart at a temperature of "
            f"{metrics['temperature']:.3g}; {metrics['eval/accuracy']:.1%} of the evaluation labels agree"
        )
    write_json(stage.apart / "usage.json", usage)
