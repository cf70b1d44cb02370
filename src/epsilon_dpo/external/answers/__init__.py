"""Stage `answers@RUN` of external/dvc.yaml: a policy's answers to a benchmark's questions.

In: a policy folder, questions, how to decode. Out: one dialogue per question; a later turn sees the policy's own
earlier answers.
It does not know a tool's format.
"""
