"""The replication study: each claim of the paper as a definition, what was measured of it, and a verdict.

In: finished reproductions of a level's preset, one per seed; study/claims.yaml. Out: study/results/LEVEL, small tables
that are committed, and docs/replication.md, made from nothing else. No stage depends on it, and it trains nothing.
"""
