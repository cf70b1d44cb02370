"""figures: the paper's figures and tables from the runs of params.yaml."""

from pathlib import Path

from epsilon_dpo.pipeline.stage.execution import heavy_imports, run_stage
from epsilon_dpo.pipeline.stage.params import load
from epsilon_dpo.report.figures.params import FiguresView

with heavy_imports():
    from epsilon_dpo.report.figures.write import write_figures

with run_stage("figures") as stage:
    written = write_figures(Path("out"), load(FiguresView), stage.out)
    stage.summary = f"{', '.join(figure['name'] for figure in written)}: out/figures/images"
