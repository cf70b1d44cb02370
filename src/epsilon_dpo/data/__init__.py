"""Preference data: sources, the pair record, tokenisation, the validation contract."""
