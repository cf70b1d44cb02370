"""Stage `pairs`: the preference pairs of the alignment as token ids, once for all runs.

In: rows of out/validate, the tokenizer and, for on-policy pairs, out/ranking. Out: out/pairs with the ids of prompt,
chosen and rejected answer; of on-policy pairs also the texts, and by name those that break the contract or lie too
close.
It samples and judges nothing, and evaluation pairs are always the dataset's.
"""
