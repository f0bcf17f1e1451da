#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every lock of cas has a rank in cas/mutex.h, and every rank is that of a lock.
set -u
cd "$(dirname "$0")/.." || exit 1
bad=0
table=$(sed -nE 's/^ +X\([0-9]+, "([^"]+)"\).*/\1/p' cas/mutex.h | sort)
used=$(grep -hoE '(cas_(mutex|rwlock)_init\(|CAS_(MUTEX|ONCE)_INIT\()[^"]*"[^"]+"' cas/*.c | sed -E 's/.*"([^"]+)"/\1/' | sort -u)
for name in $used; do
	echo "$table" | grep -qxF "$name" || { echo "locks: \"$name\" has no rank in cas/mutex.h"; bad=1; }
done
for name in $table; do
	echo "$used" | grep -qxF "$name" || { echo "locks: cas/mutex.h ranks \"$name\", which is no lock's name"; bad=1; }
done
[ "$(echo "$table" | uniq -d)" = "" ] || { echo "locks: cas/mutex.h ranks one name twice"; bad=1; }
exit $bad
