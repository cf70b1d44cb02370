"""Preference pairs: from a named source to token ids, by way of a contract.

In: generated data, Anthropic-HH from the Hub or from a folder. Out: rows of text that keep the contract (out/validate),
and the same pairs as token ids (out/pairs).
It loads no model and no torch; a tokenizer is all that it needs of one.
"""
