"""Differences of two policies on the same prompts, with intervals, singly or all pairs together.

In: values of both by prompt. Out: value, low end, high end, n. A room of its own, because tournament, figures and
report need it and no training does.
"""
