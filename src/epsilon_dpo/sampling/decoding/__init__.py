"""Continuous batching of a model in memory: finished sequences leave, new prompts join.

In: a model, prompts as token ids, what ends an answer. Out: completions as token ids, where each ends, its text. The
temperature alone shapes the distribution unless processors are given (Gumbel-max trick), with random numbers that do
not depend on the batch. Trainings that draw their own policy's answers use it too.
Its only files are the state from which a killed sampling goes on; answers/ reads policies and writes samples.
"""
