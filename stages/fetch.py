"""fetch: a named preference dataset at a pinned version, as dialogues, split so that no prompt is in both parts."""

from epsilon_dpo.data.sources.loading import read_source
from epsilon_dpo.data.sources.params import FetchView
from epsilon_dpo.pipeline.stage.execution import run_stage
from epsilon_dpo.pipeline.stage.files import write_json, write_jsonl
from epsilon_dpo.pipeline.stage.params import load

with run_stage("fetch") as stage:
    params = load(FetchView)
    dataset = read_source(params.fetch, params.seed, stage.scratch)
    rows = {"train": len(dataset.train), "eval": len(dataset.eval)}
    write_jsonl(stage.out / "train.jsonl", dataset.train)
    write_jsonl(stage.out / "eval.jsonl", dataset.eval)
    if dataset.dropped is not None:
        write_jsonl(stage.out / "dropped.jsonl", dataset.dropped)
    if dataset.labelled is not None:
        write_jsonl(stage.out / "labelled.jsonl", dataset.labelled)
    write_json(stage.out / "dataset.json", {**dataset.facts, "rows": rows})
    stage.tracker.log_metrics({f"rows/{split}": float(count) for split, count in rows.items()}, step=0)
    stage.summary = f"{rows['train']} training pairs, {rows['eval']} evaluation pairs from {params.fetch.source}"
    if dataset.dropped:
        stage.summary += f", {len(dataset.dropped)} rows dropped"
