#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What the engines cost a page does not grow with the VM, they allocate nothing while pages move, and little before.
check_engine.py BENCH-ENGINE

Instructions are counted, not timed: the count repeats exactly.
"""
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import figures  # noqa: E402
from checking import run_cases  # noqa: E402

SMALL, LARGE = "instructions/1GiB/16vcpus", "instructions/16GiB/16vcpus"
FEW, MANY = "time/64GiB/1vcpus", "time/64GiB/1000vcpus"
SMALL_TIMED, LARGE_TIMED = "time/1GiB/16vcpus", "time/16GiB/16vcpus"
GROWTH_MAX = 1.1
MEMORY_MAX = 0.001


def run(*names):
    found = figures.run([os.path.abspath(sys.argv[1]), f"--benchmark_filter=^({'|'.join(names)})/",
                         "--benchmark_min_time=0.01", "--benchmark_format=json"])
    assert set(found) == set(names), sorted(found)
    for name, counters in found.items():
        asked = counters["chunks_per_page"], counters["faults_per_page"]
        assert asked == (8, 0.25), f"{name}: another migration was run than was asked for: {counters}"
        assert counters["allocations_while_running"] == 0, f"{name}: {counters}"
    return [found[name] for name in names]


def a_page_of_a_larger_vm_takes_no_more_instructions():
    small, large = (counters["instructions_per_page"] for counters in run(SMALL, LARGE))
    assert 0 < large <= small * GROWTH_MAX, (small, large)


def a_thousand_vcpus_wait_at_once():
    few, many = (counters["vcpus_waiting_max"] for counters in run(FEW, MANY))
    assert (few, many) == (1, 1000), (few, many)


def memory_grows_by_less_than_a_thousandth_of_the_guest_s():
    small, large = (counters["memory_by_guest"] for counters in run(SMALL_TIMED, LARGE_TIMED))
    assert 0 < large < small, (small, large)
    small_gib, large_gib = 1, 16
    grown = (large * large_gib - small * small_gib) / (large_gib - small_gib)
    assert 0 < grown <= MEMORY_MAX, grown


if __name__ == "__main__":
    sys.exit(run_cases([a_page_of_a_larger_vm_takes_no_more_instructions, a_thousand_vcpus_wait_at_once,
                        memory_grows_by_less_than_a_thousandth_of_the_guest_s]))
