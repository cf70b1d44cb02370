"""Answers: a policy's own, to held-out prompts and, for on-policy pairs, to training prompts.

In: a policy folder, rows with prompts. Out: samples with their token ids and how each ended. Random numbers belong to
the prompt, so batch size and order change nothing but rounding.
It compares no answers: the judge does.
"""
