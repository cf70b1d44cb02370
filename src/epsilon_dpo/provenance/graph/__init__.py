"""The project as DVC sees it, for what is asked of it.

In: the project's folder. Out: its stages in the order of `dvc repro` and their entries in dvc.lock. Hashes are DVC's
own: nothing here computes one in another way.
"""
