"""scorer: what scores the answers that online runs draw; nothing unless params.yaml asks for a scorer."""

from pathlib import Path

from epsilon_dpo.judging.scorer.params import ScorerView
from epsilon_dpo.judging.scorer.writing import write_scorers
from epsilon_dpo.pipeline.stage.execution import run_stage
from epsilon_dpo.pipeline.stage.params import load

with run_stage("scorer") as stage:
    params = load(ScorerView)
    counts = write_scorers(params.scorer, Path("out/pairs"), Path("out/validate"), Path("out/teacher"), stage.out)
    stage.summary = "none"
    if params.scorer is not None:
        stage.tracker.log_metrics({f"{split}_prompts": count for split, count in counts.items()}, step=0)
        stage.summary = f"{params.scorer.source}, for {counts['train']} training prompts"
