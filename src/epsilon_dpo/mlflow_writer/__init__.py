"""The child process behind the tracker: MLflow's store, one MLflow run per execution of a stage.

In: JSON lines from the pipe of pipeline/observability/tracker.py. Out: the run with its params, metrics and tags in
mlruns/, or on the server that MLFLOW_TRACKING_URI names; the saved view of the comparison; a result's run found again.
No stage imports it or depends on it, it alone imports mlflow, and nothing that DVC hashes comes out of it.
"""
