#!/bin/bash
# All runs of params.yaml on this machine, in groups, each in a copy of the project in scratch/groups (docs/scale.md):
#   launchers/local.sh [AT_ONCE [RUNS]]   AT_ONCE groups side by side (as many as there are GPUs, or 1), of RUNS runs each (all
#                                         runs parted among these, or 10)
# Said again, it goes on where it ended.
set -eu
cd "$(dirname "$0")/.."
say() { echo "$*" >&2; exit 1; }
command -v dvc >/dev/null || say "The environment is not active: . .venv/bin/activate"
[ -z "${EPSILON_DPO_LAUNCHER:-}" ] || say "EPSILON_DPO_LAUNCHER gives all GPUs to one training, and groups have one each: unset it."
is_clean() { [ -z "$(git status --porcelain -- . ':!dvc.lock')" ]; }
is_clean || say "The copies hold a commit: commit what \`git status\` names first."
gpus=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true)}
gpus=$(echo "$gpus" | tr -d ' ' | tr ',' '\n' | grep -xE '[0-9]+|(GPU|MIG)-.*' || true)
count=$(echo "$gpus" | grep -c . || true)
at_once=${1:-$((count > 0 ? count : 1))} size=${2:-10}
for number in "$at_once" "$size"; do
  case $number in '' | 0* | *[!0-9]*) say "launchers/local.sh [AT_ONCE [RUNS]]: $number is no number from 1 on" ;; esac
done
PYTHONPATH=src python -m epsilon_dpo.check.params_file
mkdir -p scratch/groups
EPSILON_DPO_STAGES=$PWD/scratch/groups/stages
dvc stage list --name-only >"$EPSILON_DPO_STAGES"
runs=$(grep -c '^align@' "$EPSILON_DPO_STAGES")
each=$(((runs + at_once - 1) / at_once)) # no more in a group than leave some to each of those at once
[ -n "${2:-}" ] || size=$((each < size ? each : size))
case ${MLFLOW_TRACKING_URI:=sqlite:///mlruns/mlflow.db} in
sqlite:////*) ;;
sqlite:///*) MLFLOW_TRACKING_URI=sqlite:///${PWD//%/%25}/${MLFLOW_TRACKING_URI#sqlite:///} ;; # of the project, not of a copy
esac
EPSILON_DPO_COMMIT=$(git rev-parse HEAD) EPSILON_DPO_CACHE=$(dvc cache dir) EPSILON_DPO_JOBS=scratch/groups
export MLFLOW_TRACKING_URI EPSILON_DPO_COMMIT EPSILON_DPO_CACHE EPSILON_DPO_JOBS EPSILON_DPO_STAGES
groups=$(for first in $(seq 0 "$size" $((runs - 1))); do
  last=$((first + size - 1))
  echo "$first-$((last < runs ? last : runs - 1))"
done)
# What takes long has a process group of its own (set -m), so that a signal to this process alone ends it as Ctrl-C does.
stop() { trap '' INT TERM HUP; [ -z "${!:-}" ] || kill "-$1" -- "-$!" 2>/dev/null || true; exit "$2"; }
trap 'stop INT 130' INT; trap 'stop TERM 143' TERM; trap 'stop TERM 129' HUP
run() { set -m; "$@" & set +m; wait "$!"; }
alone() { if [ "$count" = 0 ]; then "$@"; else CUDA_VISIBLE_DEVICES=$(echo "$gpus" | head -n 1) "$@"; fi; } # a stage uses one GPU
run alone launchers/in-copy.sh shared
echo "Groups $(echo $groups), $at_once at once; to watch them: tail -f scratch/groups/*.log"
# xargs ends at once where a command exits with 255, as dvc does, so that the other groups would not begin.
side_by_side() {
  echo "$groups" | GPUS=$gpus COUNT=$count xargs -P "$at_once" --process-slot-var=SLOT -n 1 bash -c '
    [ "$COUNT" = 0 ] || export CUDA_VISIBLE_DEVICES=$(echo "$GPUS" | sed -n "$((SLOT % COUNT + 1))p")
    log=scratch/groups/$1.log && : >"$log"
    launchers/in-copy.sh "$1" >>"$log" 2>&1 || { echo "group $1 failed: $(grep -a "^ERROR" "$log" | tail -n 1) ($log)" >&2; exit 1; }
    echo "group $1 ended"' group
}
run side_by_side || say "Say this again when the cause is gone: what is finished is not computed again."
is_clean && [ "$(git rev-parse HEAD)" = "$EPSILON_DPO_COMMIT" ] ||
  say "The project was edited meanwhile, and the groups are of commit $EPSILON_DPO_COMMIT: commit the edit, or take it back, and say this again; what is finished is not computed again."
PYTHONPATH=src python -m epsilon_dpo.cli gather scratch/groups/shared/dvc.lock $(printf 'scratch/groups/%s/dvc.lock ' $groups)
dvc checkout --force --allow-missing dvc.yaml # also over what an interrupted stage has left, and of no other file of the user's
run alone dvc repro
PYTHONPATH=src python -m epsilon_dpo.report.page.tracked || true # writes what waits for the MLflow server
