"""report: the runs of params.yaml, and no others, compared on one page."""

from pathlib import Path

from epsilon_dpo.params.report import ReportView
from epsilon_dpo.params.strict import load
from epsilon_dpo.report.page import write_report
from epsilon_dpo.report.results import read_results
from epsilon_dpo.report.tracked import compared_policies
from epsilon_dpo.stage import run_stage

with run_stage("report") as stage:
    params = load(ReportView)
    results = read_results(Path("out"), params.runs)
    write_report(results, params.report.examples, stage.out)
    stage.tracker.mark_compared(compared_policies(results))
    stage.summary = f"{len(results.runs)} runs compared on {results.n} prompts: out/report/report.html"
