"""ranking: the candidates of each prompt, scored by the judge or the teacher; nothing where there are none."""

from math import isnan
from pathlib import Path

from epsilon_dpo.pipeline.stage.execution import run_stage
from epsilon_dpo.pipeline.stage.files import read_jsonl, write_json, write_jsonl
from epsilon_dpo.pipeline.stage.params import load
from epsilon_dpo.sampling.on_policy.on_policy import IN_WORDS, distinct_answers
from epsilon_dpo.sampling.on_policy.params_ranking import RankingView

with run_stage("ranking") as stage:
    params = load(RankingView)
    rows, left_out = distinct_answers(read_jsonl(Path("out/candidates/samples.jsonl")))
    metrics = {f"left_out/{what}": float(count) for what, count in left_out.items()}
    usage: dict[str, float] = {}
    if rows:
        from epsilon_dpo.judging.judges.loading import load_judge, teaching  # torch is not loaded for nothing
        from epsilon_dpo.pipeline.stage.runtime import set_up

        set_up(0, params.threads)  # nothing is drawn here
        with teaching():
            judge = load_judge(Path("out/teacher"), stage.journal)
            scores = judge.rank([row["prompt"] for row in rows], [row["answers"] for row in rows])
        known = [[None if isnan(score) else score for score in own] for own in scores]  # null: it refused to compare it
        rows = [row | {"scores": own} for row, own in zip(rows, known, strict=True)]
        usage = judge.usage()
        metrics |= usage | {"refused_answers": float(sum(own.count(None) for own in known))}
    write_jsonl(stage.out / "ranked.jsonl", rows)
    write_json(stage.apart / "usage.json", usage)
    stage.tracker.log_metrics(metrics)
    stage.summary = f"{sum(len(row['answers']) for row in rows)} different answers to {len(rows)} prompts"
    if any(left_out.values()):
        said = (f"{count} {IN_WORDS[what]}" for what, count in left_out.items() if count)
        stage.summary += f"; left out: {', '.join(said)}"
