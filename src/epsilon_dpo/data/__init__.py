"""Preference pairs: from a named source to token ids, by way of a contract.

In: generated data, or preference data in any published shape, from the Hub or below data/. Out: rows of text that keep
the contract (out/validate), and the same pairs as token ids (out/pairs).
It loads no model and no torch; a tokenizer is all that it needs of one.
"""
