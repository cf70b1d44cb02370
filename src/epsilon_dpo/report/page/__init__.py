"""Stage `report`: one self-contained page with the tables behind it.

In: the outputs of all runs that params.yaml names, checked to belong together. Out: report.html, its charts, CSV
tables, summary.json; paired tests between runs and, with several seeds, between methods, each corrected for their
number.
It ranks nothing that the tests do not tell apart.
"""
