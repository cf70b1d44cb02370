"""What a chat template does to a dialogue, found by rendering probes.

In: a tokenizer with its template. Out: how many BOS it writes and what is wrong with that; which turn's text it leaves
out; whether it takes a system turn.
It changes no template; models/base does.
"""
