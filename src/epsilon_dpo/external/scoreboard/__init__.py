"""Stage `scoreboard` of external/dvc.yaml: the verdicts of all runs on one page and as a table.

In: the metrics of each run. Out: scoreboard.html, scores.csv.
It is not part of the root's report, which must not depend on whether somebody paid for a judge.
"""
