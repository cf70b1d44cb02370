"""Log-probs of answers without [tokens, vocabulary] logits: where ε-DPO's perturbed log-probs arise.

In: token ids [R, T] with a mask of the scored ones, a policy, a reference if asked for. Out, per scored token in nats:
log-prob (with gradient), reference log-prob, those under both mixtures of the logits, both KLs, entropy. head.py
patches the model, kernel.py sweeps the vocabulary, tiles.py has the formulas; padding.py and shared_prompt.py lay out
batches.
It sums nothing into a loss and knows no method.
"""
