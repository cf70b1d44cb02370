"""Stages `candidates` and `ranking`: the reference's own answers to training prompts, scored by the teacher.

In: rows of out/validate/train.jsonl, the SFT policy, out/teacher. Out: several different answers per prompt, and a
score for each, comparable within the prompt.
It makes no pairs of them (data/pairs does); without the block `candidates` its outputs are empty.
"""
