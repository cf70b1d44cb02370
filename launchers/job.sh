#!/bin/sh
# One of several jobs that share a pipeline (docs/scale.md): it makes its part and hands the results on.
#   launchers/job.sh shared      what all runs need
#   launchers/job.sh 0           all stages of the first run of params.yaml; 1: of the second; ...
#   launchers/job.sh align@dpo   this stage
#   launchers/job.sh report      what compares the runs
# Each works in a copy of the project of its own, since no two may write one dvc.lock. Results travel by content, through
# DVC's remote and run cache: whoever says `dvc repro --pull` later finds them there and computes nothing.
set -eu
stages=$(dvc stage list --name-only)
case $1 in
shared) targets="judge sft candidates ranking reference controls margins scorer" ;;
report) targets="tournament figures report dvc.yaml" ;;
*[!0-9]*) targets=$1 ;;
*)
  run=$(echo "$stages" | sed -n 's/^align@//p' | sed -n "$(($1 + 1))p")
  [ -n "$run" ] || { echo "params.yaml has no run number $1, counted from 0" >&2; exit 1; }
  targets=$(echo "$stages" | grep "@$run\$")
  ;;
esac
# It names processes by number, and after a requeue those of another machine say nothing here; nobody else works in this copy.
rm -f .dvc/tmp/rwlock
# A finished stage has no checkpoints any more: its result leaves this machine, which may be taken away, before the next begins.
for target in $targets; do
  dvc repro --pull "$target"
  dvc push --run-cache
done
PYTHONPATH=src python -m epsilon_dpo.report.page.tracked || true # writes what waits for the MLflow server
