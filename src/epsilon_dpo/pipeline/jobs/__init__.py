"""A pipeline whose stages ran in several copies of the project: one dvc.lock of theirs.

In: the dvc.lock of each copy. Out: dvc.lock with the entries of all.
It runs nothing and moves no output: DVC's cache and remote hold them, and launchers/ start the copies.
"""
