"""Prompt identity: which rows share a prompt.

In: prompts as messages. Out: an id per prompt, equal for equal messages, and pairings of rows whose prompts differ.
It does not compare meanings: two wordings of one question are two prompts.
"""
