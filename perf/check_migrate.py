#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The suite of whole migrations runs, and says what it should. Nothing about time is looked at. check_migrate.py BUILD"""
import os
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import figures  # noqa: E402
from checking import has_figures, need_kvm, run_cases  # noqa: E402

COUNTERS = {"total_s", "downtime_ms", "all_vcpus_blocked_ms", "worst_vcpu_blocked_ms", "source_cpu_s_per_gib",
            "destination_cpu_s_per_gib", "cpu_s_per_gib", "raw_cpu_s_per_gib", "mib_per_s", "raw_mib_per_s",
            "raw_alone_mib_per_s"}
MAY_BE_NONE = {"all_vcpus_blocked_ms"}


def whole_migrations_are_measured():
    need_kvm()
    found = figures.run([f"{HERE}/bench_migrate.py", sys.argv[1], "--sizes", "64M", "--benchmark_filter=random|still"])
    has_figures(found, {f"migrate/{pattern}/64M": COUNTERS for pattern in ("random", "still")}, MAY_BE_NONE)


if __name__ == "__main__":
    sys.exit(run_cases([whole_migrations_are_measured]))
