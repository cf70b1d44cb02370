#!/bin/sh
# The pipeline as Slurm jobs: what all runs share, an array with a task per run, the report. In the project's folder, with
# its environment active:
#   launchers/slurm/submit.sh [options of sbatch, such as --gres=gpu:1 --time=12:00:00]
set -eu
cd "$(dirname "$0")/../.."
say() { echo "$*" >&2; exit 1; }
command -v dvc >/dev/null || say "The environment is not active: . .venv/bin/activate"
[ -n "${MLFLOW_TRACKING_URI:-}" ] || say "The jobs report to one server: export MLFLOW_TRACKING_URI=http://HOST:PORT (docs/server.md)."
dvc remote list | grep -q '(default)' || say "The jobs share results: dvc remote add -d store /a/shared/folder (docs/dvc.md)."
[ -z "$(git status --porcelain -- . ':!dvc.lock')" ] || say "The jobs run a commit: commit what \`git status\` names first."
PYTHONPATH=src python -m epsilon_dpo.check.params_file
runs=$(dvc stage list --name-only | grep -c '^align@')
EPSILON_DPO_COMMIT=$(git rev-parse HEAD)
export EPSILON_DPO_COMMIT
mkdir -p scratch/jobs
job() { sbatch --parsable --kill-on-invalid-dep=yes "$@"; }
shared=$(job --job-name=shared "$@" launchers/slurm/runs.sbatch shared)
array=$(job --job-name=runs "$@" --dependency="afterok:$shared" --array="0-$((runs - 1))" --output=scratch/jobs/%x-%A-%a.log launchers/slurm/runs.sbatch)
report=$(job --job-name=report "$@" --dependency="afterok:$array" launchers/slurm/runs.sbatch report)
echo "jobs $shared (shared), $array (an array of $runs runs), $report (report); their logs are in scratch/jobs/"
