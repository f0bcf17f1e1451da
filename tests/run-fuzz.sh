#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# tests/run-fuzz.sh SECONDS TARGET…: runs each fuzz target for that long, from its seed corpus. What
# it finds worth keeping goes to build/fuzz/found/NAME, and a crash stays there as crash-*.
set -u
seconds=$1
shift
cd "$(dirname "$0")/.." || exit 1
status=0
for target in "$@"; do
	name=$(basename "$target")
	found=build/fuzz/found/$name
	mkdir -p "$found"
	if "$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 \
		-artifact_prefix="$found/" "$found" "tests/fuzz/corpus/$name" >"$found.log" 2>&1; then
		echo "ok   $name: $(sed -n 's/^stat::number_of_executed_units: */runs /p' "$found.log")"
	else
		echo "FAIL $name; the end of $found.log:"
		tail -n 30 "$found.log"
		status=1
	fi
done
exit $status
