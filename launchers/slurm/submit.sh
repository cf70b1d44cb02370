#!/bin/sh
# The pipeline as Slurm jobs: what all runs share, an array with a task per run, the report. In the project's folder, with
# its environment active:
#   launchers/slurm/submit.sh [options of sbatch, such as --gres=gpu:1 --time=12:00:00]
set -eu
cd "$(dirname "$0")/../.."
say() { echo "$*" >&2; exit 1; }
[ -n "${MLFLOW_TRACKING_URI:-}" ] || say "The jobs report to one server: export MLFLOW_TRACKING_URI=http://HOST:PORT (docs/server.md)."
case $(dvc config core.remote >/dev/null 2>&1 && dvc remote list) in
*[[:space:]]/* | *://*) ;;
*) say "The jobs share results through a default remote: dvc remote add --local -d store /an/absolute/path (or s3://...)." ;;
esac
[ -z "$(git status --porcelain -- . ':!dvc.lock')" ] || say "The jobs run a commit: commit what \`git status\` names first."
python -m epsilon_dpo.check.params_file
runs=$(dvc stage list --name-only | grep -c '^align@')
EPSILON_DPO_COMMIT=$(git rev-parse HEAD)
export EPSILON_DPO_COMMIT
mkdir -p scratch/jobs
job() { sbatch --parsable --kill-on-invalid-dep=yes "$@"; }
shared=$(job --job-name=shared "$@" launchers/slurm/runs.sbatch shared)
array=$(job --job-name=runs --dependency="afterok:$shared" --array="0-$((runs - 1))" "$@" launchers/slurm/runs.sbatch)
report=$(job --job-name=report --dependency="afterok:$array" "$@" launchers/slurm/runs.sbatch report)
echo "jobs $shared (shared), $array (array of $runs runs), $report (report); logs in scratch/jobs/"
