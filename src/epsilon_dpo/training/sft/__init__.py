"""Stage `sft`: supervised fine-tuning on the chosen answers; the result is the reference policy.

In: out/base, rows of out/validate, the blocks `tokens` and `sft`. Out: out/sft: the policy, its curves, its evaluation.
With `sft: null` the policy is the base model, copied, and there are no curves.
It does not look at rejected answers.
"""
