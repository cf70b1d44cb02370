"""Which policy is the champion: `epsilon-dpo promote RUN`, `epsilon-dpo champion`.

In: the comparison of the report, outputs that are those of dvc.lock, MLflow's registry. Out: a version of a registered
model with the alias `champion`, with the decision and what it rests on; of the champion its weights, from out/, DVC's
cache or its remote, with their digest checked, an adapter merged into what it was trained on.
It computes no statistic of its own, and promotes nothing that the report cannot tell from the champion.
"""
