"""A tokenizer from its folder, without torch, a pair as its token ids, and how many of them a model takes.

In: a tokenizer's folder, a row with its prompt made explicit, the block `tokens` of params.yaml; a model's
configuration. Out: the ids of prompt, chosen and rejected answer by the tokenizer's own chat template, the stop token
at the end of each answer, answers cut on the right at `max_length`; the positions of a model.
It never cuts a prompt and judges nothing; the contract does. It changes no tokenizer; models/base does.
"""
