"""Preference optimisation as a DVC pipeline. Start with dvc.yaml: each stage in stages/ is one call into here.

The rooms are listed in the order in which data flows, and each imports only rooms listed before it: pipeline,
mlflow_writer, data, models, methods, training, sampling, analysis, judging, report, external, check, inspection,
provenance, forecast, study.
A room's `__init__.py` says what goes in, what comes out and what it does not do; a block of params.yaml is typed in the
`params.py` of the room that reads it. `cli.py` is the command `epsilon-dpo`.
"""
