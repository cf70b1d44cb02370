"""The loss of each preference-optimisation method: one file per method, none imports another method.

In: per pair, log-probs of the chosen and of the rejected answer ([B], nats), and a run's config. Out: a loss per pair,
implicit rewards, metrics; for some a state that moves after each step, such as ε-DPO's beta. interface.py says what a
method is and can ask for, online.py the same of methods that learn from scores of their own answers, registry.py finds
either by its name.
It imports neither the trainer nor mlflow, and runs no model.
"""
