#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What whole migrations look like from inside both programs: waits for locks, and memory. JSON as Google Benchmark's.

    bench_inside.py BUILD [--sizes 256M,1G,4G] [--benchmark_filter=RE] [--benchmark_repetitions=N] [--where]

The moves are those of bench_migrate.py, with perf/inside.c preloaded into `send` and `receive`.

Lock waits are those of the threads that pages go through (of channels, of faults, of placing), of both programs, from
their start to their end. Page time is the time in which pages moved; by it all the waits together are taken, so one
thread that waits all the time makes 1. That is more than what a page's own way loses. send_kib and receive_kib are
the memory a program has taken at most, without files and without guest memory. --where says on stderr which thread
has waited where, and who had the lock.
"""
import os
import re
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import bench_migrate  # noqa: E402
from results import read_json  # noqa: E402

WHERE = "--where"
CONSTANT_KIB = (8 + 24) << 10  # ARCHITECTURE.md, "Memory overhead": source, destination
PAGE_THREADS = re.compile("hf-(tcp-[ub]|faults|place)")


def preload(host):
    """The file it will write, and what is to be done before a program is executed."""
    path = host.name("inside")

    def enter():
        os.putenv("LD_PRELOAD", os.path.join(host.build, "perf/inside.so"))
        os.putenv("HF_INSIDE", path)
    return path, enter


def page_waits(seen):
    assert seen["lost"] == 0, "there were more places than perf/inside.c has room for"
    return [wait for wait in seen["waits"] if PAGE_THREADS.match(wait["thread"])]


def waited_ns(seen):
    return sum(wait["ns"] for wait in page_waits(seen))


def named(host, addresses):
    """{address: where that is in the program}: the innermost function that is not core/lock.h's."""
    said = subprocess.run(["addr2line", "-a", "-f", "-i", "-s", "-e", host.hugeferry,
                           *(f"{max(address - 1, 0):#x}" for address in addresses)],  # what returns is behind the call
                          check=True, capture_output=True, text=True).stdout
    frames = [one.splitlines()[1:] for one in re.split("^(?=0x)", said, flags=re.MULTILINE) if one]
    calls = [[f"{name} ({line})" for name, line in zip(lines[::2], lines[1::2])] for lines in frames]
    return {address: next((call for call in inner if "(lock." not in call), inner[-1])
            for address, inner in zip(addresses, calls)}


def say_where(host, what, seen):
    names = named(host, sorted({wait[key] for wait in seen["waits"] for key in ("wanted", "had")}))
    for wait in sorted(seen["waits"], key=lambda wait: -wait["ns"]):
        again = ", again after a wait" if wait["again"] else ""
        print(f"{what} {wait['thread']}: {wait['waits']} waits, {wait['ns'] / 1e6:.3f} ms, the longest "
              f"{wait['longest_ns'] / 1e3:.0f} us: {names[wait['wanted']]}{again}, had by {names[wait['had']]}",
              file=sys.stderr)


def measure(host, pattern, size):
    host.need(bench_migrate.PAGE, bench_migrate.pages_of(size))
    paths, enter = zip(preload(host), preload(host))
    sent, received, _ = bench_migrate.move(host, bench_migrate.start_source(host, pattern, size), size, enter)
    seen = dict(zip(("send", "receive"), map(read_json, paths)))
    if WHERE in sys.argv:
        for program, one in seen.items():
            say_where(host, f"{pattern} {program}", one)
    page_ns = received["postcopy_time_ns"]
    waits = [wait for one in seen.values() for wait in page_waits(one)]
    own_kib = {program: one["peak_kib"] - one["file_kib"] for program, one in seen.items()}
    return {
        "total_s": received["total_time_ns"] / 1e9,
        "page_time_ms": page_ns / 1e6,
        **{f"{program}_lock_waits_ms": waited_ns(one) / 1e6 for program, one in seen.items()},
        "lock_waits_by_page_time": sum(map(waited_ns, seen.values())) / page_ns,
        "longest_lock_wait_us": max((wait["longest_ns"] for wait in waits), default=0) / 1e3,
        **{f"{program}_kib": kib for program, kib in own_kib.items()},
        "memory_beyond_constant_by_guest": (sum(own_kib.values()) - CONSTANT_KIB) / (size >> 10),
    }


if __name__ == "__main__":
    sys.exit(bench_migrate.run(__doc__, "inside", measure, "256M,1G,4G", ("random", "hot")))
