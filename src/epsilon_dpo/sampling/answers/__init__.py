"""Stages `reference` and `sample@RUN`: prompts to answers.

In: a policy folder, rows of out/validate/eval.jsonl, the block `sample`. Out: one sample per prompt and repetition.
It runs in this process, in several under torchrun, or in vLLM's environment, and compares no answers.
"""
