#!/bin/bash
# All runs of params.yaml on this machine, in groups that run side by side, each in a copy of the project (docs/scale.md):
#   launchers/local.sh [AT_ONCE [RUNS]]      AT_ONCE groups at once (as many as there are GPUs, or 1), of RUNS runs each (5)
# Said again, it goes on where it ended.
set -eu
cd "$(dirname "$0")/.."
say() { echo "$*" >&2; exit 1; }
command -v dvc >/dev/null || say "The environment is not active: . .venv/bin/activate"
[ -z "$(git status --porcelain -- . ':!dvc.lock')" ] || say "The copies hold a commit: commit what \`git status\` names first."
gpus=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | paste -sd,)}
count=$(echo "$gpus" | tr ',' '\n' | grep -c .) || true
at_once=${1:-$((count > 0 ? count : 1))} size=${2:-5}
PYTHONPATH=src python -m epsilon_dpo.check.params_file
runs=$(dvc stage list --name-only | grep -c '^align@')
EPSILON_DPO_COMMIT=$(git rev-parse HEAD)
EPSILON_DPO_CACHE=$(dvc cache dir)
MLFLOW_TRACKING_URI=${MLFLOW_TRACKING_URI:-sqlite:///$PWD/mlruns/mlflow.db}
export EPSILON_DPO_COMMIT EPSILON_DPO_CACHE MLFLOW_TRACKING_URI
groups=$(for first in $(seq 0 "$size" $((runs - 1))); do
  last=$((first + size - 1))
  echo "$first-$((last < runs ? last : runs - 1))"
done)
mkdir -p scratch/jobs
launchers/in-copy.sh shared
# Each of the slots has a GPU of its own, or shares one where there are more slots than GPUs.
echo "$groups" | GPUS=$gpus COUNT=$count xargs -P "$at_once" --process-slot-var=SLOT -n 1 bash -c '
  [ "$COUNT" = 0 ] || export CUDA_VISIBLE_DEVICES=$(echo "$GPUS" | cut -d, -f $((SLOT % COUNT + 1)))
  exec launchers/in-copy.sh "$1" >"scratch/jobs/$1.log" 2>&1' group ||
  say "Of the groups $(echo $groups) not all ended; their logs are scratch/jobs/GROUP.log. Say this again when the cause is gone."
PYTHONPATH=src python -m epsilon_dpo.cli gather scratch/jobs/shared/dvc.lock $(printf 'scratch/jobs/%s/dvc.lock ' $groups)
dvc checkout --quiet --allow-missing
dvc repro
PYTHONPATH=src python -m epsilon_dpo.report.page.tracked || true # writes what waits for the MLflow server
