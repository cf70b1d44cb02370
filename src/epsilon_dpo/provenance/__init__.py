"""What DVC's records say before and after a pipeline has run; each sub-room is a question asked on the command line.

In: dvc.yaml, dvc.lock, params.yaml, git, DVC's cache, and MLflow's store where there is one. Out: a text or JSON.
No stage imports it, and asking never changes a file that DVC or git watches.
"""
