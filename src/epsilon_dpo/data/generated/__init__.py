"""A small world whose true preference is known: topics, facts, false claims, and what an answer is worth.

In: one of its prompts and any answer. Out: the true reward, by which the judge itself is judged.
It draws no pairs (data/sources does) and knows nothing of other data: only a dataset that says `true_reward: true` of
itself is scored by it.
"""
