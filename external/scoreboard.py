"""scoreboard: the verdicts on all runs of external/params.yaml, and on no others, on one page."""

from pathlib import Path

from epsilon_dpo.external.params import ScoreboardView
from epsilon_dpo.external.scoreboard import read_verdicts, write_scoreboard
from epsilon_dpo.params.strict import load
from epsilon_dpo.stage import run_stage

with run_stage("scoreboard") as stage:
    params = load(ScoreboardView)
    write_scoreboard(read_verdicts(Path("out/verdicts"), params.runs), stage.out)
    stage.summary = f"{len(params.runs)} runs: external/out/scoreboard/scoreboard.html"
