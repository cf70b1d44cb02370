"""The language model: what SFT starts from, policies on disk, log-probs without logits.

In: a built or pretrained model; policies that trainings wrote; batches of token ids. Out: out/base; a policy in memory;
log-probs of answers under policy, reference and ε-DPO's two perturbed policies.
It trains nothing and samples nothing.
"""
