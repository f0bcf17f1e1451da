#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# tests/run-all.sh: what `make test` runs once everything is built: crash enumeration, models, unit
# tests, the latter with sanitizers, too, the corpora of the fuzz targets, system tests. The last
# line counts over all of it.
set -u
cd "$(dirname "$0")/.." || exit 1
LAMINA_TEST_TOTALS=$(mktemp)
export LAMINA_TEST_TOTALS
trap 'rm -f "$LAMINA_TEST_TOTALS"' EXIT
# One more than CPUs: a third of the time of most tests is waiting. Still more would make tests that
# wait for something slow ones.
jobs=$(($(nproc) + 1))
export LAMINA_TEST_JOBS=$((jobs > 4 ? 4 : jobs))
export ASAN_OPTIONS=detect_stack_use_after_return=1:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1

sources_of() { # folder, pattern: names without their ending
	find "$1" -maxdepth 1 -name "$2" -printf '%f\n' 2>/dev/null | sed 's/\.c$//' | sort
}
programs() { # configuration, folder, pattern: programs that have a source
	sources_of "tests/$2" "$3" | sed "s|^|build/$1/tests/$2/|"
}

status=0
run() { # kind seconds program…
	[ $# -gt 2 ] || return 0
	tests/run.sh "$@" || status=1
}
# shellcheck disable=SC2046 # names of ours have no blanks
{
	run unit 600 $(programs release crash '*.c') $(programs release model '*.c') $(programs release unit '*_test.c') $(programs release prop '*_test.c')
	run asan 300 $(programs asan unit '*_test.c') $(programs asan prop '*_test.c')
	run replay 120 $(programs asan fuzz '*.c')
	run sys 600 $(find tests/sys -maxdepth 1 -type f -executable | sort)
}
awk '{ p += $1; f += $2; s += $3 } END { printf "%d passed, %d failed, %d skipped\n", p, f, s }' "$LAMINA_TEST_TOTALS"
exit $status
