#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tests/sys/cluster.py over the bucket of Ceph's gateway."""
import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
os.execv(sys.executable, [sys.executable, here + "/cluster.py", "--gateway", *sys.argv[1:]])
