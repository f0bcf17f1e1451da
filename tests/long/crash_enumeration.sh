#!/bin/sh
# Every operation of the store is cut short at every I/O call: killed, without power, with errors,
# with what was not synced lost in part. Some minutes.
cd "$(dirname "$0")/../.." || exit 1
exec build/release/tests/crash/enumerate --long
