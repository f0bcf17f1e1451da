#!/bin/sh
# Runs test programs one after the other, each under a time limit; prints a line each and the
# output of those that fail. Exit status 1 when any failed.
passed=0 failed=0
out=$(mktemp)
trap 'rm -f "$out"' EXIT
for t in "$@"; do
    if timeout -k 5 "${LAMINA_TEST_SECONDS:-300}" "$t" >"$out" 2>&1; then
        passed=$((passed + 1)); echo "ok   $t"
    else
        rc=$?; failed=$((failed + 1)); echo "FAIL $t (status $rc)"; tail -n 60 "$out"
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
