"""A tokenizer from its folder, without torch.

In: a folder as `save_pretrained` writes it. Out: the fast tokenizer.
It does not make or change tokenizers; models/base does.
"""
