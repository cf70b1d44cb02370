"""figures: the paper's figures and tables from the runs of params.yaml."""

from pathlib import Path

from epsilon_dpo.figures.write import write_figures
from epsilon_dpo.params.figures import FiguresView
from epsilon_dpo.params.strict import load
from epsilon_dpo.stage import run_stage

with run_stage("figures") as stage:
    written = write_figures(Path("out"), load(FiguresView), stage.out)
    stage.summary = f"{', '.join(figure['name'] for figure in written)}: out/figures/images"
