"""`epsilon-dpo plan`: which stages the next `dvc repro` would run, why, and what that costs; before it runs.

In: the project, what git has of it, and how long stages took. Out: a table, or JSON, and the `dvc commit` that accepts
an edit which cannot change a result. It runs no stage, takes no lock of DVC and accepts nothing by itself.
"""
