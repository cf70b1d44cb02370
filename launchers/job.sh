#!/bin/sh
# One of several jobs that share a pipeline (docs/scale.md): it makes its part and hands the results on.
#   launchers/job.sh shared      what all runs need
#   launchers/job.sh 0           all stages of the first run of params.yaml; 1: of the second; ...
#   launchers/job.sh 0-4         of the first five
#   launchers/job.sh align@dpo   this stage
#   launchers/job.sh report      what compares the runs
# Each works in a copy of the project of its own, since no two may write one dvc.lock. Results travel by content, through
# DVC's remote and run cache: whoever says `dvc repro --pull` later finds them there and computes nothing.
set -eu
stages=$(dvc stage list --name-only)
runs=
case $1 in
shared) targets="judge sft candidates ranking reference controls margins scorer" ;;
report) targets="tournament figures report dvc.yaml" ;;
[0-9]*)
  runs=$(echo "$stages" | sed -n 's/^align@//p' | sed -n "$((${1%-*} + 1)),$((${1#*-} + 1))p")
  [ -n "$runs" ] || { echo "params.yaml has no run number ${1%-*}, counted from 0" >&2; exit 1; }
  targets=$(for run in $runs; do echo "$stages" | grep "@$run\$"; done)
  ;;
*) targets=$1 runs=${1#*@} ;;
esac
# It names processes by number, and after a requeue those of another machine say nothing here; nobody else works in this copy.
rm -f .dvc/tmp/rwlock
# DVC writes dvc.lock in full after each stage, so this one has no other runs (docs/performance.md).
if [ "$1" != report ] && [ -f dvc.lock ]; then
  awk -v runs=" $(echo "$runs" | tr '\n' ' ') " '
    /^[^ ]/ { wanted = 1 }
    /^  [^ ]/ { name = $1; sub(/:$/, "", name); at = index(name, "@"); wanted = !at || index(runs, " " substr(name, at + 1) " ") }
    wanted' dvc.lock >dvc.lock.short && mv dvc.lock.short dvc.lock
fi
remote=$(dvc remote list | grep '(default)') || true
pull=${remote:+--pull}
if [ "$1" = report ] && [ -f ../shared/dvc.lock ]; then # the other jobs' copies lie beside this one
  PYTHONPATH=src python -m epsilon_dpo.cli gather ../shared/dvc.lock $(echo "$stages" | grep '^align@' | awk '{ print "../" NR - 1 "/dvc.lock" }')
  dvc pull $(grep -oE 'out/(sample|score|kl|monotonicity|align/metrics)/[a-z0-9_]+' dvc.lock | sort -u)
  pull="--pull --allow-missing" # of what it does not read, such as weights
fi
if [ -n "${EPSILON_DPO_CACHE:-}" ]; then # which the copies on this machine share: results are where they are needed
  [ -n "$runs" ] || exec dvc repro $pull $targets
  PYTHONPATH=src python -m epsilon_dpo.cli gather ../shared/dvc.lock
  dvc checkout --quiet --allow-missing
  exec dvc repro --single-item --keep-going $targets # in this order; what they share was made a moment ago
fi
# A finished stage has no checkpoints any more: its result leaves this machine, which may be taken away, before the next begins.
for target in $targets; do
  dvc repro $pull "$target"
  [ -z "$remote" ] || dvc push --run-cache
done
PYTHONPATH=src python -m epsilon_dpo.report.page.tracked || true # writes what waits for the MLflow server
