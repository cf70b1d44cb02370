"""Code on which no output depends: the class of user errors, the progress bar, the tracker's client.

In: metrics, tags and messages. Out: a line on the terminal, a copy in MLflow by way of ../mlflow_writer (a child
process). Nothing is ever read back, so the four files are exempt from the stages' `deps` (tests/closure.py).
It does not decide anything: a tracking server that fails costs a line and seconds, never a result.
"""
