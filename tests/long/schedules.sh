#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Many thousands of schedules that no run before had (tests/prop/schedules_test.c);
# LAMINA_SEED=N begins with that one.
set -u
cd "$(dirname "$0")/../.." || exit 1
from=${LAMINA_SEED:-$(date +%s)000}
echo "LAMINA_SEED=$from"
exec build/release/tests/prop/schedules_test --from "$from" --schedules 1000000 --seconds "${LAMINA_SCHEDULES_SECONDS:-900}"
