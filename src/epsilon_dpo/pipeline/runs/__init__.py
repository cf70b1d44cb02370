"""The runs of params.yaml by name, and where the policies of each lie.

In: the names under `runs:`, and a folder out/align/RUN. Out: the paths of its policies: the snapshots by step, and last
the final one.
It does not know what a run trains: its config belongs to its method.
"""
