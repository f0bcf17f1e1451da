#!/bin/sh
# Every operation of the store is cut short at every call that changes something, with every state
# that may be left of what was not synced, in both models; and each of its calls fails with each
# errno. Some hours on a small machine: ENUMERATE_BITS (8) bounds the combinations of a point.
cd "$(dirname "$0")/../.." || exit 1
program=build/release/tests/crash/enumerate
"$program" --long --bits "${ENUMERATE_BITS:-8}" --samples 32 &&
	exec "$program" --long --bits "${ENUMERATE_BITS:-8}" --rules ordered --only crashes
