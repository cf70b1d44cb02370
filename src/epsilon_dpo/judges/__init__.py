"""Judges of answer pairs."""
