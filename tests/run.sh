#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# tests/run.sh KIND SECONDS PROGRAM…: runs test programs, $LAMINA_TEST_JOBS (1) at a time, each
# under a time limit and in a private directory ($LAMINA_TEST_DIR, TMPDIR; removed afterwards).
# Prints a line for each and the output of those that fail. Exit status 77 is a skipped test, whose
# last line says why. A program may count its own cases: "N passed, N failed" or cmocka's summary.
# The totals are added to $LAMINA_TEST_TOTALS. Exit status 1 when any failed.
#
# A script with a line "# test: alone" measures something of the whole machine: such ones run
# after the others, one at a time.
#
# KIND replay: PROGRAM is a fuzz target; it gets its corpus.
set -u
kind=$1 seconds=$2
shift 2
root=$(cd "$(dirname "$0")/.." && pwd)
export TSAN_OPTIONS=${TSAN_OPTIONS-suppressions=$root/tests/tsan.supp}
jobs=${LAMINA_TEST_JOBS:-1}
work=$(mktemp -d "${TMPDIR:-/tmp}/lt.XXXXXX") # short: engines put sockets below, whose paths have bounds
trap 'rm -rf "$work"' EXIT
chmod 711 "$work" # some tests go on as another user, for whom their directories are as /tmp
: >"$work/counts"

# The number before WORD in the last line of the output that has it, or nothing.
counted() { # out, cmocka's word, ours
	sed -nE "s/^\[ +$2 +\] ([0-9]+) test.*/\1/p; s/^(.*[^0-9])?([0-9]+) $3(,.*)?$/\2/p" "$1" | tail -n 1
}

count() { # passed failed skipped
	echo "$*" >>"$work/counts"
}

# One program, in a subshell: its report on stdout.
run_one() { # number program
	local program=$2 name=${2#"$root"/} dir=$work/$1 out=$work/$1.out
	local args=() start rc took good bad why
	mkdir -m 1777 "$dir"
	if [ "$kind" = replay ]; then
		args=("$root/tests/fuzz/corpus/$(basename "$program")")
		[ -d "${args[0]}" ] || { echo "FAIL $name: no corpus"; count 0 1 0; return; }
	fi
	start=$(date +%s)
	LAMINA_TEST_DIR=$dir TMPDIR=$dir timeout -k 10 "$seconds" "$program" "${args[@]}" >"$out" 2>&1 </dev/null
	rc=$?
	took=$(($(date +%s) - start))
	rm -rf "$dir"
	good=$(counted "$out" PASSED passed)
	bad=$(counted "$out" FAILED failed)
	case $rc in
	0)
		count "${good:-1}" 0 0
		echo "ok   $name${good:+ ($good)} ${took}s"
		;;
	77)
		count 0 0 1
		echo "skip $name: $(tail -n 1 "$out")"
		;;
	*)
		[ "${bad:-0}" -gt 0 ] || bad=1
		count "${good:-0}" "$bad" 0
		why="status $rc"
		[ $rc != 124 ] || why="longer than $seconds s"
		echo "FAIL $name ($why); again: $program ${args[*]}"
		tail -n 60 "$out" | sed 's/^/     | /'
		;;
	esac
}

# What a subshell reports comes out in one piece.
report_one() {
	local text
	text=$(run_one "$@")
	flock "$work/counts" printf '%s\n' "$text"
}

number=0
alone=()
for program in "$@"; do
	if grep -qaxF '# test: alone' "$program" 2>/dev/null; then
		alone+=("$program")
		continue
	fi
	while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do
		wait -n
	done
	number=$((number + 1))
	report_one $number "$program" &
done
wait
for program in ${alone[@]+"${alone[@]}"}; do
	number=$((number + 1))
	report_one $number "$program"
done
read -r passed failed skipped <<<"$(awk '{ p += $1; f += $2; s += $3 } END { print p + 0, f + 0, s + 0 }' "$work/counts")"
echo "$kind: $passed passed, $failed failed, $skipped skipped"
[ -z "${LAMINA_TEST_TOTALS:-}" ] || echo "$passed $failed $skipped" >>"$LAMINA_TEST_TOTALS"
[ "$failed" -eq 0 ]
