"""Stage `verdicts@RUN` of external/dvc.yaml: the benchmark's own tool, called in its own environment.

In: an exported answer file, a judge behind an endpoint. Out: metrics, and a row per question or turn; replies that were
paid for are kept.
It reimplements no tool, and no score of another judge is comparable with published ones.
"""
