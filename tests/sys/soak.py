#!/usr/bin/python3
"""tests/long/soak.py for a short time: everything at once, and kills."""
import os
import sys

SOAK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../long/soak.py")
os.execv(sys.executable, [sys.executable, SOAK, "--seconds", "20", "--grace", "10", *sys.argv[1:]])
