"""scoreboard: the verdicts on the runs of one page. `python scoreboard.py PAGE` in the folder external/"""

from pathlib import Path

from epsilon_dpo.external.benchmarks.params import ScoreboardView
from epsilon_dpo.external.scoreboard.scoreboard import read_verdicts, write_scoreboard
from epsilon_dpo.pipeline.stage.execution import run_argument, run_stage
from epsilon_dpo.pipeline.stage.params import load

name = run_argument()
with run_stage("scoreboard", name) as stage:
    params = load(ScoreboardView)
    runs = params.on_page(name)
    write_scoreboard(read_verdicts(Path("out/verdicts"), runs), stage.out)
    stage.summary = f"{len(runs)} runs: external/out/scoreboard/{name}/scoreboard.html"
