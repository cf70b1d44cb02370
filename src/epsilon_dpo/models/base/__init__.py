"""Stage `base`: the model that SFT starts from, its tokenizer, chat template and stop token.

In: the block `base` of params.yaml: the embedded small Gemma-2, or a pretrained model from the Hub or a folder. Out:
out/base/model and out/base/tokenizer, saved so that every later stage stops at the same token.
It trains no weight; the embedded tokenizer alone is trained, on the fetched texts.
"""
