#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The models of collection, here and in a bucket, with larger bounds than in `make test`.
cd "$(dirname "$0")/../.." || exit 1
build/release/tests/model/gc_model --long && exec build/release/tests/model/cluster_model --long
