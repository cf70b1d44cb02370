"""What every stage uses: params.yaml, outputs, hashes, seeds, downloads, the tracker.

In: params.yaml, dvc.yaml and the files that a stage depends on. Out: typed config, output folders that are complete or
absent, a fingerprint of what a result is made from, sentences for the user.
It knows no preference pair, no model and no method, and it imports no other room.
"""
