#!/bin/sh
# Pushes that are killed and pushes that race, for longer than `make test` has time for.
cd "$(dirname "$0")/../.." || exit 1
exec tests/sys/registry_races.py --rounds 200
