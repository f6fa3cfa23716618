#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The suite of placements runs, and says what it should. Nothing about time is looked at. check_place.py BENCH-PLACE"""
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import figures  # noqa: E402
from checking import has_figures, run_cases  # noqa: E402

WAYS = ("copy", "continue", "allocate_and_continue", "first_touch")
COUNTERS = {raw + rank for raw in ("", "raw_") for rank in ("p50_us", "p99_us")} | {"page_bytes", "pairs"}


def every_way_is_measured_beside_its_limit():
    found = figures.run([os.path.abspath(sys.argv[1]), "--small", "--benchmark_format=json",
                         "--benchmark_min_time=0.001"])
    has_figures(found, {f"{way}/2M": COUNTERS for way in WAYS})


if __name__ == "__main__":
    sys.exit(run_cases([every_way_is_measured_beside_its_limit]))
