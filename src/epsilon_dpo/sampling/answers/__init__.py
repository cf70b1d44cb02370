"""Stages `reference` and `sample@RUN`: prompts to answers, by continuous batching.

In: a policy folder, rows of out/validate/eval.jsonl, the block `sample`. Out: one sample per prompt and repetition. By
default the temperature alone shapes the distribution (Gumbel-max trick); finished sequences leave, new prompts join.
It runs in this process, in several under torchrun, or in vLLM's environment, and compares no answers.
"""
