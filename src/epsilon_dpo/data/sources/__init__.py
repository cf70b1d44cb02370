"""Stage `fetch`: a named dataset at a pinned version, one file per source.

In: the block `fetch` of params.yaml, the seed, and files below data/ or of the Hub. Out: a `Dataset`: training and
evaluation rows {"id", "chosen": messages, "rejected": messages} as entire dialogues, the facts of their origin, and by
name the rows that make no pair.
It repairs nothing: defects of the source are kept for the contract to find. Only what is not the source's format at all
stops here.
"""
