"""check: every number in params.yaml, each run by the method it names, before anything runs.

Its output never changes, so the stages below run again only for the params that they declare themselves. What runs left
that params.yaml no longer names is removed here, before the stages that compare all runs are looked at.
"""

import sys

from epsilon_dpo.check.leftovers import remove_leftovers
from epsilon_dpo.check.params_file import cautions, load_file
from epsilon_dpo.pipeline.stage.execution import run_stage

with run_stage("check") as stage:
    params = load_file()
    (stage.out / "passed.txt").write_text("params.yaml is valid\n")
    removed = remove_leftovers(list(params.runs))
    for caution in cautions(params):
        print(f"check: {caution}", file=sys.stderr)
    stage.summary = f"{len(params.runs)} runs: {', '.join(params.runs)}"
    if removed:
        stage.summary += f"; removed what is left of {', '.join(removed)}"
