"""Whether a result is reproducible: `epsilon-dpo verify` runs stages once more in a clean folder and compares.

In: what dvc.lock records, and the recorded outputs of the workspace or DVC's cache. Out: a verdict per stage, the first
step, tensor or row that differs with the likely cause, and a certificate that the report shows.
It uses no result of DVC's run cache, and it changes nothing in out/, dvc.lock, mlruns/ or DVC's cache.
"""
