"""Stage `figures`: the paper's Figures 3, 4 and 5 and its Tables 5-8 from these runs.

In: out/align, out/score, out/kl, out/monotonicity, out/controls, out/judge, out/validate. Out: each figure as image,
CSV and caption with n, estimator, judge and split.
It draws nothing for the report's page: report/page has charts of its own.
"""
