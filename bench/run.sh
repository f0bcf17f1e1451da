#!/bin/sh
# Runs the benchmarks: bench/run.sh LAYOUT, or LAMINA_CORPUS=LAYOUT. See bench/README.md.
set -eu
cd "$(dirname "$0")/.."
corpus=${1:-${LAMINA_CORPUS:-}}
if [ -z "$corpus" ]; then
    echo "bench: name an OCI layout of real images: make bench CORPUS=DIR (see bench/README.md)" >&2
    exit 2
fi
bench/bench.py --corpus "$corpus" --out build/bench.json
exec bench/cdn_replay.py --out build/bench-caches.json
