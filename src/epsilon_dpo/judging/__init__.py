"""Who answers better: judges, how they are made, win rates, the tournament.

In: two answers to one prompt. Out: a verdict in both orders; win rates with intervals; all runs on one scale; margins.
It samples no answers and trains no policy: another judge re-runs no training on the dataset's pairs, but for
margins and an online run's scorer.
"""
