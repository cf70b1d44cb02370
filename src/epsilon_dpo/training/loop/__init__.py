"""What every training shares: arguments, checkpoints, adapters, metrics.jsonl, the result.

In: a training block of params.yaml, a scratch folder. Out: transformers' TrainingArguments; checkpoints that are
complete or ignored; metrics.jsonl, the same after a resumption; the folder model/.
It knows neither pairs nor losses.
"""
