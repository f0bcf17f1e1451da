#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# tests/run.sh KIND SECONDS PROGRAM…: runs test programs one after the other, each under a time
# limit and in a private directory ($LAMINA_TEST_DIR, TMPDIR; removed afterwards). Prints a line
# for each and the output of those that fail. Exit status 77 is a skipped test, whose last line
# says why. A program may count its own cases: "N passed, N failed" or cmocka's summary.
# The totals are added to $LAMINA_TEST_TOTALS. Exit status 1 when any failed.
#
# KIND replay: PROGRAM is a fuzz target; it gets its corpus.
set -u
kind=$1 seconds=$2
shift 2
root=$(cd "$(dirname "$0")/.." && pwd)
export TSAN_OPTIONS=${TSAN_OPTIONS-suppressions=$root/tests/tsan.supp}
passed=0 failed=0 skipped=0
work=$(mktemp -d "${TMPDIR:-/tmp}/lamina-test.XXXXXX")
out=$work/out
trap 'rm -rf "$work"' EXIT

# The number before WORD in the last line of the output that has it, or nothing.
counted() {
	sed -nE "s/^\[ +$1 +\] ([0-9]+) test.*/\1/p; s/^(.*[^0-9])?([0-9]+) $2(,.*)?$/\2/p" "$out" | tail -n 1
}

for program in "$@"; do
	name=${program#"$root"/}
	mkdir "$work/dir"
	args=()
	if [ "$kind" = replay ]; then
		args=("$root/tests/fuzz/corpus/$(basename "$program")")
		[ -d "${args[0]}" ] || { echo "FAIL $name: no corpus"; failed=$((failed + 1)); rm -rf "$work/dir"; continue; }
	fi
	start=$(date +%s)
	LAMINA_TEST_DIR=$work/dir TMPDIR=$work/dir timeout -k 10 "$seconds" "$program" "${args[@]}" \
		>"$out" 2>&1 </dev/null
	rc=$?
	took=$(($(date +%s) - start))
	rm -rf "$work/dir"
	good=$(counted PASSED passed)
	bad=$(counted FAILED failed)
	case $rc in
	0)
		passed=$((passed + ${good:-1}))
		echo "ok   $name${good:+ ($good)} ${took}s"
		;;
	77)
		skipped=$((skipped + 1))
		echo "skip $name: $(tail -n 1 "$out")"
		;;
	*)
		[ "${bad:-0}" -gt 0 ] || bad=1
		passed=$((passed + ${good:-0}))
		failed=$((failed + bad))
		why="status $rc"
		[ $rc != 124 ] || why="longer than $seconds s"
		echo "FAIL $name ($why); again: $program ${args[*]}"
		tail -n 60 "$out" | sed 's/^/     | /'
		;;
	esac
done
echo "$kind: $passed passed, $failed failed, $skipped skipped"
[ -z "${LAMINA_TEST_TOTALS:-}" ] || echo "$passed $failed $skipped" >>"$LAMINA_TEST_TOTALS"
[ "$failed" -eq 0 ]
