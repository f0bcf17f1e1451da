#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tests/sys/cluster.py over the bucket of Ceph's gateway."""
import os
import sys

sys_tests = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "sys")
os.execv(sys.executable, [sys.executable, sys_tests + "/cluster.py", "--gateway", *sys.argv[1:]])
