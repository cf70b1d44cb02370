#!/bin/sh
# The pipeline of presets/smoke.yaml, then one more run per kind of edit (edits.py): in the image (smoke.sh), or in any copy of
# the project that may be changed. After a stop, start it again: it goes on where it was.
set -eu
if [ ! -e dvc.lock ]; then # checkpoints so often that a training of seconds has some; no result depends on it
  sed 's/^checkpoints: .*/checkpoints: {save_steps: 4}/' presets/smoke.yaml >params.yaml
fi
dvc repro
dvc status -q
epsilon-dpo --help >/dev/null
test -s out/report/report.html
exec python "$(dirname "$0")/edits.py"
