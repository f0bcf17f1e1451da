#!/bin/sh
# Ten thousand times, one bit of a store flips: found each time, and put right where there is a
# second copy. About half an hour on two CPUs. BITFLIPS and BITFLIPS_SEED change number and place.
cd "$(dirname "$0")/../.." || exit 1
exec build/release/tests/crash/bitflips --flips "${BITFLIPS:-10000}" \
	--seed "${BITFLIPS_SEED:-$(date +%s)}"
