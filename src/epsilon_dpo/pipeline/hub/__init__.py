"""Files from the Hugging Face Hub at a pinned commit.

In: repository, 40-digit commit, file or patterns. Out: local paths, or one sentence that says why not (no network, no
licence accepted, no such commit).
It does not follow branch names, which move, and does not read the files.
"""
