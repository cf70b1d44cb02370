#!/usr/bin/env bash
# Builds the image and runs pipeline.sh in it, without network, as its non-root user, stopped once in mid-training.
# By Docker where an engine answers; IMAGE names one that is built already. Else, for a root machine with Debian's packages,
# by buildah; where the official base image cannot be pulled, a Debian bookworm root stands in for it.
set -euo pipefail
cd "$(dirname "$0")/.."
base=docker.io/library/python:3.11-slim-bookworm
work=$(mktemp -d)
container=""
running=""
engine=buildah
if docker info >/dev/null 2>&1; then engine=docker; fi
image=${IMAGE:-localhost/epsilon-dpo:smoke}
[ "$engine" = docker ] && remove=(docker rm --force) || remove=(buildah rm)
cleanup() {
  if [ -n "$running" ] && kill -0 "$running" 2>/dev/null; then halt || true; wait "$running" || true; fi
  [ -n "$container" ] && { "${remove[@]}" "$container" >/dev/null || true; }
  rm -rf "$work"
}
trap cleanup EXIT
step() { printf '[%4ds] %s\n' "$SECONDS" "$*"; }
quietly() { "$@" >"$work/log" 2>&1 || { tail -60 "$work/log"; echo "failed: $*"; exit 1; }; }

free=$(df --output=avail -BG / | tail -1 | tr -dc 0-9)
needed=12
[ -n "${IMAGE:-}" ] && needed=2 # it is built already: what the pipeline writes
if [ "$free" -lt "$needed" ]; then
  echo "SKIPPED: the image was neither built nor run; that needs $needed GB of free disk and here are $free GB."
  [ "${CI:-}" != true ] # a check that CI asked for must not pass unmade
  exit
fi

# What builders need beyond the Dockerfile: a proxy's settings, a local wheel of torch.
args=()
[ -e /etc/pip.conf ] && args+=(--secret id=pip_conf,src=/etc/pip.conf)
[ -e /etc/ssl/certs/ca-certificates.crt ] && args+=(--secret id=ca_bundle,src=/etc/ssl/certs/ca-certificates.crt)
[ -d "${PIP_FIND_LINKS:-}" ] && args+=(--build-context wheels="$PIP_FIND_LINKS" --build-arg TORCH_SPEC="$(grep '^torch==' requirements.txt)+cpu")
[ -n "${TORCH_INDEX_URL:-}" ] && args+=(--build-arg TORCH_INDEX_URL="$TORCH_INDEX_URL")
[ -n "${NO_CACHE:-}" ] && args+=(--no-cache)

with_buildah() {
  if ! command -v buildah >/dev/null || ! command -v mmdebstrap >/dev/null || ! command -v ip >/dev/null || ! command -v pgrep >/dev/null; then
    step "install buildah and mmdebstrap"
    quietly apt-get update -qq
    quietly env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends buildah crun mmdebstrap iproute2 procps
  fi
  if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
    step "make a Debian root that stands in for $base"
    quietly mmdebstrap -q --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$work/base.tar"
    container=$(buildah from scratch)
    quietly buildah add -q "$container" "$work/base.tar" /
    buildah config --cmd python3 --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    quietly buildah commit -q --rm "$container" "$base"
    container=""
    rm -f "$work/base.tar"
  fi
  step "build"
  quietly buildah bud --isolation chroot --pull=never --layers --format docker "${args[@]}" -t "$image" .
}

if [ -z "${IMAGE:-}" ] && [ "$engine" = docker ]; then
  step "build"
  quietly docker build "${args[@]}" -t "$image" .
elif [ -z "${IMAGE:-}" ]; then
  with_buildah
fi

# run: from the beginning or, after halt, again, to its end; it prints to $work/run. reached REGEX: whether such a path is there.
inside='test "$(id -u)" != 0; exec sh /ci/pipeline.sh'
if [ "$engine" = docker ]; then
  container=$(docker create --network none --env HF_HUB_OFFLINE=1 --volume "$PWD/docker:/ci:ro" "$image" sh -ec "$inside")
  run() { docker start --attach "$container" >>"$work/run" 2>&1; }
  halt() { docker stop "$container" >/dev/null; }
  reached() { docker diff "$container" | grep -E "/workspace/$1\$" >/dev/null; }
else
  container=$(buildah from --pull=never "$image")
  root=$(buildah mount "$container")
  # The image's entry point by name, because buildah leaves it out, and in a PID namespace as Docker makes one: processes of the
  # second start are numbered as those of the first, and all end with the first one. A `docker stop` is a SIGTERM to tini.
  entry=(/usr/bin/tini -g -- sh /opt/entry.sh)
  run() {
    unshare --net --pid --fork --mount-proc --kill-child bash -c \
      'ip link set lo up; buildah run --isolation chroot --env HF_HUB_OFFLINE=1 --volume "$PWD/docker:/ci:ro" "$1" -- "${@:2}"' \
      _ "$container" "${entry[@]}" sh -ec "$inside" >>"$work/run" 2>&1
  }
  below() { for child in $(pgrep -P "$1"); do echo "$child"; below "$child"; done; }
  halt() { for process in $(below $running); do if [ "$(cat "/proc/$process/comm" 2>/dev/null)" = tini ]; then kill -TERM "$process"; fi; done; }
  reached() { find "$root/workspace/scratch" "$root/workspace/out" 2>/dev/null | grep -E "/workspace/$1\$" >/dev/null; }
fi
failed() { tail -c 6000 "$work/run"; echo "failed: $*"; exit 1; }

step "run the pipeline without network"
run &
running=$!
until reached 'scratch/align@epsilon_dpo-.*/checkpoint-.*/sealed.json'; do
  kill -0 $running 2>/dev/null || failed "the pipeline ended before its training had a checkpoint"
  sleep 0.2
done
step "stop it in mid-training"
halt
wait $running && failed "the pipeline ended well though it was stopped"
running=""
reached out/align/epsilon_dpo && failed "the training was done before it was stopped"
step "start it again, and once more per kind of edit"
run || failed "the pipeline does not end well"
sed -n '/^no edit/,$p' "$work/run"
step "the image builds, the pipeline runs in it, and edits re-run their stages only"
