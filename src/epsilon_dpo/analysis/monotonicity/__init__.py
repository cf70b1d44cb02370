"""Stage `monotonicity@RUN`: what ε-DPO would decide on each evaluation pair under a trained policy.

In: policy, reference, out/pairs/eval.jsonl, ε. Out: per pair the margins z⁻, z, z⁺ and the decision (lower beta, raise
it, keep it); per decision its share and its mean margin.
It trains nothing, and applies to policies of every method.
"""
