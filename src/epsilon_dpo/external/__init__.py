"""AlpacaEval 2, Arena-Hard and MT-Bench: a program of their own, external/dvc.yaml.

In: a policy of the main pipeline, the benchmark's questions (downloaded by the user), a judge behind an endpoint. Out:
answers in each tool's format; the tool's verdicts, made in the tool's own environment; a scoreboard.
No stage of dvc.yaml depends on it, and it reimplements none of the tools.
"""
