"""Facts measured before the contract is checked: about a chat template, and about each row.

In: a tokenizer with its template; rows of out/fetch, and on-policy pairs. Out: by rendering probes, how many BOS the
template writes and what is wrong with that, which turn's text it leaves out, whether it takes a system turn; per row
its prompt made explicit, and one flat record of what is measured on its text and its tokens.
It changes no template (models/base does) and drops no row (the contract does).
"""
