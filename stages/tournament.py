"""tournament: every run against every other, and all of them on one scale."""

from pathlib import Path

from epsilon_dpo.judging.tournament.params import TournamentView
from epsilon_dpo.pipeline.stage.execution import heavy_imports, run_stage
from epsilon_dpo.pipeline.stage.params import load

with heavy_imports(computes=True):
    from epsilon_dpo.judging.judges.loading import load_judge
    from epsilon_dpo.judging.scoring.intervals import Intervals
    from epsilon_dpo.judging.scoring.scoring import known_truth
    from epsilon_dpo.judging.tournament.places import chain
    from epsilon_dpo.judging.tournament.tournament import metrics, play
    from epsilon_dpo.pipeline.stage.runtime import set_up

with run_stage("tournament") as stage:
    params = load(TournamentView)
    set_up(params.seed, params.threads)
    judge = load_judge(Path("out/judge"), stage.journal)
    tables, prompts = play(
        judge,
        known_truth(Path("out/validate/dataset.json")),
        list(params.runs),
        outputs=Path("out"),
        max_prompts=params.tournament.max_prompts,
        intervals=Intervals(params.confidence, params.seed),
        out=stage.out,
    )
    stage.tracker.log_metrics(metrics(tables) | judge.usage())
    scorers = {"true_win": "by the true reward", "win": "by the judge"}
    said = [f"{scorer} {chain(tables[field], shown=5)}" for field, scorer in scorers.items() if field in tables]
    stage.summary = f"{', '.join(said)} on {prompts} prompts (~: not told apart)"
