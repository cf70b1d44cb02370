"""report: the runs of params.yaml, and no others, compared on one page."""

from pathlib import Path

from epsilon_dpo.pipeline.stage.execution import heavy_imports, run_stage
from epsilon_dpo.pipeline.stage.params import load
from epsilon_dpo.report.page.certificates import read_certificates
from epsilon_dpo.report.page.params import ReportView
from epsilon_dpo.report.page.replication import read_replication
from epsilon_dpo.report.page.results import read_results
from epsilon_dpo.report.page.tracked import compared_policies

with heavy_imports():
    from epsilon_dpo.report.page.page import write_report

with run_stage("report") as stage:
    params = load(ReportView)
    scorer = None if params.scorer is None else params.scorer.source
    margins = None if params.margins is None else params.margins.source
    results = read_results(Path("out"), params.runs, params.base_name, scorer, margins)
    certificates = read_certificates(Path("certificates"), Path("out"))
    replication = read_replication(Path("study/verdicts.json"))
    write_report(results, params.report.examples, stage.out, certificates, replication)
    stage.tracker.mark_compared(compared_policies(results))
    stage.summary = f"{len(results.runs)} runs compared on {results.prompts} prompts: out/report/report.html"
