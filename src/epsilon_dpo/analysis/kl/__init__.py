"""Stage `kl@RUN`: the KL between policy and reference, in both directions, nats per answer.

In: both policies, samples of each, the evaluation pairs. Out: sums over each answer's tokens, and five estimators of
their mean with intervals.
It does not sample: it scores the answers that stages `reference` and `sample` wrote.
"""
