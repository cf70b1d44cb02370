#!/bin/bash
# A job of launchers/job.sh in a copy of the project of its own, with which the next call for this job goes on:
#   launchers/in-copy.sh JOB      in the project's folder, with its environment active
# It runs the commit EPSILON_DPO_COMMIT, or HEAD, in the folder EPSILON_DPO_JOBS, or scratch/jobs.
set -eu
project=$PWD copy=$PWD/${EPSILON_DPO_JOBS:-scratch/jobs}/$1
[ -z "$(git rev-parse --show-prefix)" ] || { echo "$PWD is a folder of a repository, and a copy is a clone of one: make it a repository of its own" >&2; exit 1; }

mkdir -p "$(dirname "$copy")"
exec 9>"$copy.lock" # beside the copy: two that make it at once would remove each other's clone
flock --nonblock 9 || echo "another job works in $copy: waiting up to 5 minutes for it" >&2
flock --timeout 300 9 || { echo "another job works in $copy; wait for it or cancel it" >&2; exit 1; } # a lost node's lock is freed late
if [ ! -d "$copy" ]; then
  rm -rf "$copy.new"
  git clone --quiet --no-checkout "$project" "$copy.new" && mv "$copy.new" "$copy"
fi
cd "$copy"
rm -f .git/index.lock dvc.lock # DVC writes it in place, so a kill may have left a part of it; its run cache has the results
git fetch --quiet origin "${EPSILON_DPO_COMMIT:-HEAD}" '+refs/heads/*:refs/remotes/origin/*' # by its hash: no branch may have it any more
git checkout --quiet --force --detach "${EPSILON_DPO_COMMIT:-FETCH_HEAD}"
cp "$project/dvc.lock" . 2>/dev/null || true # what is finished in the project, committed or not
cp "$project/.dvc/config.local" .dvc/ 2>/dev/null || true
[ ! -d "$project/.venv-vllm" ] || ln -sfn "$project/.venv-vllm" .venv-vllm
if [ -n "${EPSILON_DPO_CACHE:-}" ]; then
  mkdir -p "$project/cache" && ln -sfn "$project/cache" cache # replies of a judge, which were paid for
  dvc cache dir --quiet --local "$EPSILON_DPO_CACHE"
  dvc config cache.type >/dev/null 2>&1 || dvc config --quiet --local cache.type reflink,hardlink,copy # each policy once
else # Without COLUMNS the list wraps, and a long address stands on a line of its own.
  read -r remote url <<<"$(cd "$project" && COLUMNS=9999 dvc remote list | sed -n 's/[[:space:]]*(default)$//p')" || true
  [ -z "$remote" ] || dvc remote modify --quiet --local "$remote" url "$url" # DVC keeps a path relative to the project that it was said in
fi
git clean --quiet -dfx data
git -C "$project" ls-files --others -z data | while IFS= read -r -d '' file; do # your own data, which git does not carry
  mkdir -p "$(dirname "$file")" && cp -rs "$project/${file%/}" "${file%/}" # a folder where it is a repository of its own
done
exec sh launchers/job.sh "$1"
