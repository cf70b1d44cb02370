"""A pair as token ids.

In: a row with its prompt made explicit, a tokenizer from its folder (without torch), the block `tokens` of params.yaml.
Out: the ids of prompt, chosen and rejected answer by the tokenizer's own chat template, the stop token at the end of
each answer, answers cut on the right at `max_length`.
It never cuts a prompt and judges nothing; the contract does. It changes no tokenizer; models/base does.
"""
