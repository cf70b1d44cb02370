"""tournament: every run against every other, and all of them on one scale."""

from pathlib import Path

from epsilon_dpo.contests import read_same_prompts
from epsilon_dpo.judges.loading import load_judge
from epsilon_dpo.outputs import read_jsonl, write_json, write_jsonl
from epsilon_dpo.params.strict import load
from epsilon_dpo.params.tournament import TournamentView
from epsilon_dpo.runtime import set_up
from epsilon_dpo.scoring import judge_contests, known_truth
from epsilon_dpo.stage import run_stage
from epsilon_dpo.tournament import first_prompts, games_of, named, run_against_run, table

with run_stage("tournament") as stage:
    params = load(TournamentView)
    set_up(params.seed, params.threads)
    reference = Path("out/reference/samples.jsonl")
    samples = {run: read_same_prompts(Path(f"out/sample/{run}/samples.jsonl"), reference)[0] for run in params.runs}
    prompts = first_prompts(next(iter(samples.values())), params.tournament.max_prompts)
    truth = known_truth(Path("out/validate/dataset.json"))
    records = judge_contests(load_judge(Path("out/judge")), run_against_run(samples, prompts), truth)
    write_jsonl(stage.out / "records.jsonl", records)
    for run in params.runs:
        records += named(read_jsonl(Path(f"out/score/{run}/records.jsonl")), run)
    records += read_jsonl(Path("out/controls/records.jsonl"))
    games = games_of(records, prompts, set(params.runs))
    tables = {
        field: table(games, field, params.confidence, params.seed)
        for field in (("win", "true_win") if truth else ("win",))
    }
    write_json(stage.out / "ranking.json", tables)
    stage.tracker.log_metrics({f"strength/{row['policy']}": row["strength"] for row in tables["win"]})
    stage.summary = f"{' > '.join(row['policy'] for row in tables['win'][:5])} on {len(prompts)} prompts"
