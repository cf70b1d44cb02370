"""Stages `score@RUN` and `controls`: which answers are compared with which, and the win rates.

In: samples of a run, of the reference, the chosen and rejected answers, a judge; the true reward where the data have
one. Out: one record per comparison; win rates with intervals, by length, by consistency of both orders.
It does not compare runs with each other (tournament/ and report/ do).
"""
