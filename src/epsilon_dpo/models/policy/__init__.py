"""A policy on disk, the folder model/ of stages sft and align.

In: a folder with a complete model, or with a LoRA adapter that names its base by path and sha256. Out: the complete
model in memory, an adapter merged in float32; a base that has changed since is refused.
It does not train adapters (training/loop does).
"""
