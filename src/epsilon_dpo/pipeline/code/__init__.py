"""The project's own Python files, read and not imported.

In: a file. Out: the project files that it can import, and what of a source is code, without comments and docstrings.
DVC follows no imports: with these, tests prove the dependencies in dvc.yaml, and `epsilon-dpo plan` and stage `scorer`
tell what an edit can change.
"""
