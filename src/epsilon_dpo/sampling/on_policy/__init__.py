"""Stages `candidates`, `ranking` and `pairs`: preference pairs from the reference's own answers.

In: several answers of the SFT policy per training prompt, the judge's scores of them. Out: pairs in the form of
out/validate/train.jsonl with both scores, those that break the contract left out by name.
It does not sample or judge itself, and evaluation pairs stay the dataset's.
"""
