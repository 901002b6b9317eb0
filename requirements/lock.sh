#!/usr/bin/env bash
# Resolve the locks anew from pyproject.toml: cpu.lock and gpu.lock (to serve), dev.lock (to test).
#
# torch is left out of the hashed locks: its build depends on the machine, so the Makefile installs
# it first, by exact version. rewardd-client is left out because it lies in this repository.
# The GPU lock is resolved against plain PyPI, whose torch brings the CUDA packages.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
"$python" -m pip wheel -q --no-deps -w "$wheels" ./clients

resolve() { # NAME EXTRA...
    local name=$1 extras=()
    shift
    for extra in "$@"; do extras+=(--extra "$extra"); done
    "$python" -m piptools compile -q --strip-extras --generate-hashes --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links --find-links "$wheels" \
        --unsafe-package torch --unsafe-package rewardd-client "${extras[@]}" \
        -o "requirements/$name.lock" pyproject.toml
    sed -i '/^# /d' "requirements/$name.lock"
}

resolve cpu torch rules
resolve dev torch rules dev
PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS='' resolve gpu torch rules
