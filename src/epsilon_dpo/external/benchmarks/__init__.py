"""What the three benchmarks ask, and the blocks of external/params.yaml.

In: question files that the user downloaded, external/params.yaml. Out: questions in their official order, checked
against a schema; typed blocks.
It ships no question.
"""
