"""Stage `export@RUN` of external/dvc.yaml: answers as the files that each tool reads.

In: dialogues, the run. Out: an answer file that keeps the tool's schema; equal answers give equal bytes.
It asks no judge and needs no network.
"""
