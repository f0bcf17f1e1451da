#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The model of collection with larger bounds than in `make test`.
cd "$(dirname "$0")/../.." || exit 1
exec build/release/tests/model/gc_model --long
