"""Estimates with their uncertainty: intervals of win rates, means and differences of two policies, and of anything by
the cluster bootstrap.

In: wins in {0, 1/2, 1} or real values, each with the prompt it belongs to. Out: value, low end, high end, n.
It does not say which runs are compared.
"""
