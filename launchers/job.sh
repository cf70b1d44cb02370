#!/bin/sh
# One of several jobs that share a pipeline (docs/scale.md): it makes its part and hands the results on.
#   launchers/job.sh shared      what all runs need
#   launchers/job.sh 0           all stages of the first run of params.yaml; 1: of the second; ...
#   launchers/job.sh 0-4         of the first five
#   launchers/job.sh align@dpo   this stage
#   launchers/job.sh report      what compares the runs
# Each works in a copy of the project of its own, since no two may write one dvc.lock. Results travel by content, through
# DVC's remote and run cache: whoever says `dvc repro --pull` later finds them there and computes nothing. On one machine
# the copies share DVC's cache, EPSILON_DPO_CACHE, and need no remote; EPSILON_DPO_STAGES is a file with the names of all
# stages, which DVC takes seconds to list.
set -eu
stages=$(cat "${EPSILON_DPO_STAGES:-/dev/null}")
[ -n "$stages" ] || stages=$(dvc stage list --name-only)
all=$(echo "$stages" | sed -n 's/^align@//p') # runs, in the order of params.yaml
runs=
case $1 in
shared) targets="judge sft candidates ranking reference controls margins scorer" ;;
report) targets="tournament figures report dvc.yaml" ;;
[0-9]*)
  runs=$(echo "$all" | sed -n "$((${1%-*} + 1)),$((${1#*-} + 1))p")
  [ -n "$runs" ] || { echo "params.yaml has no run number ${1%-*}, counted from 0" >&2; exit 1; }
  targets=$(for run in $runs; do echo "$stages" | grep "@$run\$"; done)
  ;;
*@*) targets=$1 runs=${1#*@} ;;
*) targets=$1 ;;
esac
if [ -z "${EPSILON_DPO_CACHE:-}" ] && ! dvc remote list | grep -q '(default)'; then
  echo "there is no default DVC remote, through which jobs share results (docs/scale.md)" >&2 && exit 1
fi
gather() { PYTHONPATH=src python -m epsilon_dpo.cli gather "$@"; }
# It names processes by number, and after a requeue those of another machine say nothing here; nobody else works in this copy.
mkdir -p .dvc/tmp && rm -f .dvc/tmp/rwlock
# DVC reads and writes dvc.lock in full after each stage, so a job's has no runs of other jobs (docs/performance.md).
keep() { # of dvc.lock the stages of these runs; of `@` those that are of no run, but for what compares runs
  [ -f dvc.lock ] || return 0
  awk -v runs=" $(echo "$*" | tr '\n' ' ') " '
    /^[^ ]/ { head = head $0 "\n"; next }
    /^  [^ ]/ { name = $1; sub(/:$/, "", name); at = index(name, "@")
      wanted = at ? index(runs, " " substr(name, at + 1) " ") : index(runs, " @ ") && name !~ /^(tournament|figures|report)$/ }
    wanted { printf "%s%s\n", head, $0; head = "" }' dvc.lock >.dvc/tmp/dvc.lock
  mv .dvc/tmp/dvc.lock dvc.lock
  [ -s dvc.lock ] || rm dvc.lock
}
keep @ "$runs"
# What runs share, where its job's copy lies beside this one; where that job is at work once more, the remote has it.
[ -z "$runs" ] || [ ! -f ../shared/dvc.lock ] || gather ../shared/dvc.lock || [ -z "${EPSILON_DPO_CACHE:-}" ]

status=0
if [ -n "${EPSILON_DPO_CACHE:-}" ] && [ -n "$runs" ]; then
  # What they share is there once the first has run, so `dvc` need not look at it for the others (-s), each of which has a
  # lock of its own stages, in the order of dvc.yaml. Processes that stages are forks of live as long as this one.
  export EPSILON_DPO_DVCS=$$
  recorded=$(sed -n 's/^  \([^ ].*\):$/\1/p' dvc.lock)
  dvc checkout --quiet --force --allow-missing $(echo "$stages" | grep -Fx "$recorded")
  locks=.dvc/tmp/of_runs
  rm -rf $locks
  mkdir $locks
  mv dvc.lock $locks/@
  of="@" alone=
  for run in $runs; do
    cp $locks/@ dvc.lock
    keep $of "$run"
    dvc repro $alone $(echo "$targets" | grep "@$run\$") || { status=$? && break; }
    mv dvc.lock "$locks/$run.lock"
    of="" alone=-s
  done
  [ $status != 0 ] || gather $locks/*.lock
elif [ -n "${EPSILON_DPO_CACHE:-}" ]; then
  dvc repro $targets || status=$?
else
  missing=
  if [ "$1" = report ] && [ -f ../shared/dvc.lock ]; then # the other jobs' copies lie beside this one
    rm -rf dvc.lock out/align out/sample out/score out/kl out/monotonicity # also of runs that params.yaml has no longer
    if gather ../shared/dvc.lock $(echo "$all" | awk '{ print "../" NR - 1 "/dvc.lock" }') &&
      dvc pull $(for run in $all; do for of in align/metrics sample score kl monotonicity; do echo "out/$of/$run"; done; done); then
      missing=--allow-missing # what it does not read, such as weights
    else # they are of several commits, or of groups: DVC's run cache has their results all the same
      rm -f dvc.lock
    fi
  fi
  # A finished stage has no checkpoints any more: its result leaves this machine, which may be taken away, before the next begins.
  for target in $targets; do
    dvc repro --pull $missing "$target" && dvc push --run-cache || { status=$? && break; }
  done
fi
PYTHONPATH=src python -m epsilon_dpo.report.page.tracked || true # writes what waits for the MLflow server
exit $status
