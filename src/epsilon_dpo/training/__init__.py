"""Trainings: SFT, and the alignment by every method, on transformers' Trainer.

In: out/base and the contract's rows, or the SFT policy, out/pairs and a method (and a scorer, if it learns from its own
answers). Out: model/, metrics.jsonl (one row per optimizer step), metrics.json. A killed training goes on from its last
checkpoint, to the same bytes.
It computes no loss of its own (methods/ does) and does not judge what it trained.
"""
