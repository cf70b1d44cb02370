"""Stage `validate`: what a dataset must satisfy, as text and as tokens (Great Expectations).

In: rows of out/fetch, the tokenizer, the block `validate`. Out: the rows that pass, with the prompt made explicit; the
others by id and reason; validation.html. An expectation that is set to `stop` and fails ends the pipeline.
It changes no text: a row is kept as it is or left out.
"""
