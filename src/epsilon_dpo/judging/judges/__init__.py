"""Asking a judge: PairRM, a reward model, a sentiment classifier, or a language model behind an endpoint.

In: questions (prompt, answer a, answer b), and a folder with judge.json. Out: a verdict per question, both orders in
nats; scores of several candidates of a prompt. Swapping a and b flips the sign exactly, identical answers tie.
It does not make judges (making/ does) and does not count wins (scoring/ does).
"""
