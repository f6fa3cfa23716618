#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What is seen from inside is what happens. Nothing about time is looked at.

    check_inside.py INSIDE.SO CONTEND          waits for locks are seen, and nothing else is taken for one
    check_inside.py BUILD                      the suite runs, and says what it should
"""
import json
import os
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import figures  # noqa: E402
from checking import has_figures, need_kvm, run_cases  # noqa: E402

COUNTERS = {"total_s", "page_time_ms", "send_lock_waits_ms", "receive_lock_waits_ms", "lock_waits_by_page_time",
            "longest_lock_wait_us", "send_kib", "receive_kib", "memory_beyond_constant_by_guest"}
MAY_BE_NONE = {"send_lock_waits_ms", "receive_lock_waits_ms", "lock_waits_by_page_time", "longest_lock_wait_us",
               "memory_beyond_constant_by_guest"}


def who_waits_for_a_lock_is_seen_and_who_idles_is_not():
    inside, contend = map(os.path.abspath, sys.argv[1:3])
    with tempfile.TemporaryDirectory(prefix="hf-inside-") as folder:
        path = f"{folder}/seen"
        subprocess.run([contend], check=True, env=os.environ | {"LD_PRELOAD": inside, "HF_INSIDE": path}, timeout=60)
        with open(path, encoding="utf-8") as file:
            seen = json.load(file)
    waits = [(wait["thread"], wait["again"], wait["waits"]) for wait in seen["waits"]]
    assert waits == [("wants", False, 1)], seen
    wait = seen["waits"][0]
    assert 0 < wait["ns"] == wait["longest_ns"] and 0 < wait["wanted"] != wait["had"] > 0, seen
    assert seen["lost"] == 0 and seen["peak_kib"] > seen["file_kib"] > 0, seen


def whole_migrations_are_seen_from_inside():
    need_kvm()
    command = [f"{HERE}/bench_inside.py", sys.argv[1], "--sizes", "64M", "--benchmark_filter=random"]
    has_figures(figures.run(command), {"inside/random/64M": COUNTERS}, MAY_BE_NONE)


if __name__ == "__main__":
    sys.exit(run_cases([who_waits_for_a_lock_is_seen_and_who_idles_is_not if len(sys.argv) > 2 else
                        whole_migrations_are_seen_from_inside]))
