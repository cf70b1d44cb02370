"""tournament: every run against every other, and all of them on one scale."""

from pathlib import Path

from epsilon_dpo.judges.loading import load_judge
from epsilon_dpo.params.strict import load
from epsilon_dpo.params.tournament import TournamentView
from epsilon_dpo.runtime import set_up
from epsilon_dpo.scoring import Intervals, known_truth
from epsilon_dpo.stage import run_stage
from epsilon_dpo.tournament import play

with run_stage("tournament") as stage:
    params = load(TournamentView)
    set_up(params.seed, params.threads)
    tables, prompts = play(
        load_judge(Path("out/judge")),
        known_truth(Path("out/validate/dataset.json")),
        list(params.runs),
        outputs=Path("out"),
        max_prompts=params.tournament.max_prompts,
        intervals=Intervals(params.confidence, params.seed),
        out=stage.out,
    )
    stage.tracker.log_metrics({f"strength/{row['policy']}": row["strength"] for row in tables["win"]})
    stage.summary = f"{' > '.join(row['policy'] for row in tables['win'][:5])} on {prompts} prompts"
