"""`epsilon-dpo inspect DATA`: what a preference dataset holds, before anything of the pipeline has run on it.

In: a file, a folder or a Hub dataset, and params.yaml. Out: a text on the terminal: its shape, three rows as the model
will see them, the contract's verdict on a sample, lengths in tokens, and the blocks of params.yaml that fit it.
It writes no file but the Hub's cache and changes no params; the stages decide again, on all rows.
"""
