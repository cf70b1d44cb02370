#!/usr/bin/env bash
# Builds the image and runs a small pipeline (presets/smoke.yaml) in it, without network, as its non-root user.
# For a root machine with Debian's packages but no Docker engine and no image registry: buildah builds, and where the official
# base image cannot be pulled a Debian bookworm root stands in for it.
set -euo pipefail
cd "$(dirname "$0")/.."
base=docker.io/library/python:3.11-slim-bookworm
image=localhost/epsilon-dpo:smoke
work=$(mktemp -d)
container=""
cleanup() { [ -n "$container" ] && buildah rm "$container" >/dev/null; rm -rf "$work"; }
trap cleanup EXIT
step() { printf '[%4ds] %s\n' "$SECONDS" "$*"; }
quietly() { "$@" >"$work/log" 2>&1 || { tail -60 "$work/log"; echo "failed: $*"; exit 1; }; }

free=$(df --output=avail -BG / | tail -1 | tr -dc 0-9)
if [ "$free" -lt 12 ]; then
  echo "SKIPPED: the image was neither built nor run; that needs 12 GB of free disk and here are $free GB."
  exit 0
fi

if ! command -v buildah >/dev/null || ! command -v mmdebstrap >/dev/null || ! command -v ip >/dev/null; then
  step "install buildah and mmdebstrap"
  quietly apt-get update -qq
  quietly env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends buildah crun mmdebstrap iproute2
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
args=(--isolation chroot --pull=never --layers --format docker)
[ -n "${NO_CACHE:-}" ] && args+=(--no-cache)
[ -e /etc/pip.conf ] && args+=(--secret id=pip_conf,src=/etc/pip.conf)
[ -e /etc/ssl/certs/ca-certificates.crt ] && args+=(--secret id=ca_bundle,src=/etc/ssl/certs/ca-certificates.crt)
[ -d "${PIP_FIND_LINKS:-}" ] && args+=(--build-context wheels="$PIP_FIND_LINKS" --build-arg TORCH_SPEC="$(grep '^torch==' requirements.txt)+cpu")
quietly buildah bud "${args[@]}" -t "$image" .

step "run the pipeline without network"
container=$(buildah from --pull=never "$image")
unshare --net bash -c 'ip link set lo up; exec buildah run --isolation chroot --env HF_HUB_OFFLINE=1 "$1" -- "${@:2}"' _ "$container" \
  sh -ec 'cp presets/smoke.yaml params.yaml; dvc repro; dvc status -q; test "$(id -u)" != 0; test -s out/report/report.html; echo "uid $(id -u), report $(wc -c <out/report/report.html) bytes"'
step "the image builds and the pipeline runs in it"
