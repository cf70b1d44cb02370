"""What the runs of params.yaml show: figures, tables, one page.

In: out/ of the other stages. Out: out/figures and out/report.
It computes no verdict, no KL and no sample, and reads no run that params.yaml does not name.
"""
