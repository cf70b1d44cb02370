"""Stage `judge`: the judge that params.yaml asks for, in out/judge.

In: the block `judge`, and the training pairs for a judge that is trained. Out: judge.json and the weights, from which
alone judges/loading.py loads it again.
It asks nothing: stage `judge` then measures by scoring/ how often the judge agrees with the labels.
"""
