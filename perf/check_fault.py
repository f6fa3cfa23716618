#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The suite of faults runs, and says what it should. Nothing about time is looked at. check_fault.py BENCH-FAULT"""
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import figures  # noqa: E402
from checking import has_figures, need_kvm, run_cases  # noqa: E402

DIFFERENCES = {"felt_longer_us_per_fault", "busy_felt_longer_us_per_fault"}
TOUCH = {"p50_us", "p99_us", "raw_p50_us", "raw_p99_us", "busy_p50_us", "busy_p99_us", "busy_p99_by_idle_p50",
         "present_p50_us", "faults", "reported_by_felt", "busy_reported_by_felt"} | DIFFERENCES
BACKGROUND = {"mib_per_s", "raw_mib_per_s", "cpu_s_per_gib", "raw_cpu_s_per_gib"}


def found(wanted):
    need_kvm()
    return figures.run([os.path.abspath(sys.argv[1]), "--benchmark_format=json", "--benchmark_min_time=0.001",
                        f"--benchmark_filter={wanted}"])


def what_vcpus_feel_is_measured_by_either_placement():
    names = ("touch/tcp/continue/vcpus:1", "touch/tcp/continue/vcpus:2", "touch/tcp/copy/vcpus:1",
             "touch/unix/continue/vcpus:1")
    has_figures(found("touch/.*vcpus:[12]/"), {name: TOUCH for name in names}, DIFFERENCES)


def the_background_is_measured_beside_bare_sockets():
    has_figures(found("background/tcp/copy"), {"background/tcp/copy": BACKGROUND})


if __name__ == "__main__":
    sys.exit(run_cases([what_vcpus_feel_is_measured_by_either_placement,
                        the_background_is_measured_beside_bare_sockets]))
