"""A run of params.yaml: what it may be called, and where its policies lie.

In: the names under `runs:`, and a folder out/<stage>/RUN. Out: valid names; the paths of the run's policies: the
snapshots by step, and last the final one.
It does not know what a run trains: its config belongs to its method.
"""
