#!/bin/sh
# The tests that kill processes, for longer than `make test` has time for.
cd "$(dirname "$0")/../.." || exit 1
bad=0
for turn in 1 2 3 4 5; do
    LAMINA_KILL_ROUNDS=30 tests/sys/owner_killed.py || bad=1
done
LAMINA_TAKEOVER_SECONDS=150 tests/sys/takeover.py || bad=1
exit $bad
