"""Stands for what --prepare did not make: says so and ends as skipped."""

import sys

print("not run: `python tools/gpu_check.py --prepare` has made no programs for this device")
sys.exit(3)
