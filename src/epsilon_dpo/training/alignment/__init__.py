"""Stage `align@RUN`: one trainer for every method.

In: the SFT policy, out/pairs, a method. Out: out/align/RUN: the policy, snapshots if asked for, metrics per logging
step. A step: pair_data.py batches, micro_batches.py cuts by length, pair_logps.py asks policy and reference for
log-probs, the method turns them into losses, trainer.py averages over the whole step and then calls the method's
`after_step`, where ε-DPO's beta moves.
It contains no `if method ==`: a method states what it needs.
"""
