#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every client does everything with every kind of registry (tests/sys/registry_clients.sh).
export LAMINA_CLIENTS=full LAMINA_TEST_SECONDS=${LAMINA_TEST_SECONDS:-1800}
exec "$(dirname "$0")/../sys/registry_clients.sh" "$@"
