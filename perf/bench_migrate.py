#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Whole migrations of the reference VMM by postcopy, over tcp: on this host; JSON as Google Benchmark writes it.

    bench_migrate.py BUILD [--sizes 256M,1G] [--benchmark_filter=RE] [--benchmark_repetitions=N]

A benchmark is migrate/PATTERN/SIZE: the guest reads and writes in a row, at random, or mostly a hot set, as fast as it
can; or it is still, one step a second. Counters: total time, downtime, what vCPUs were blocked (all at once, and the
worst), CPU seconds of `send` and of `receive` a GiB of page payload (the guest's vCPUs are the VMM's, and not in it), and
payload a second of postcopy. The limits are those of perf/raw_limits.c, just before: a bare loop over as many sockets
while the same guest runs, since vCPUs take CPUs from a migration too (raw_alone_mib_per_s: without it), and for the CPU
of both sides that of the loop alone and of allocating as many huge pages. These are touched once before the first move:
on a host that is a VM itself its hypervisor may have to bring them, which takes more than the move. After each move
every byte is checked. Wants root, /dev/kvm and huge pages for two VMs of the size; gives them back.
"""
import argparse
import json
import os
import re
import resource
import statistics
import sys
import traceback

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "tests/e2e"))

from host import (G, M, Host, Vmm, assert_whole, await_memory, err_of, finish, listening_uri, out_of,  # noqa: E402
                  receive, send)
from results import read_json, warm_pages  # noqa: E402

PAGE = 2 * M
VCPUS = 2
CHANNELS = 2
PATTERNS = {"sequential": ("--pattern", "sequential"), "random": ("--pattern", "random"), "hot": ("--pattern", "hot"),
            "still": ("--pace", 1)}
UNITS = {"M": M, "G": G}


def size_of(text):
    match = re.fullmatch(r"(\d+)([MG])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is no size such as 256M or 1G")
    return text, int(match[1]) * UNITS[match[2]]


def pages_of(size):
    return 2 * size // PAGE + 64


def raw_limits(host, size):
    """What sockets carry here at this moment, and what that and the memory cost."""
    process = host.start(os.path.join(host.build, "perf/raw-limits"), CHANNELS, size)
    code, said = finish(process)
    assert code == 0, said
    return json.loads(out_of(process))


def finish_and_count(process):
    """Waits for it; its CPU seconds, with those of its own children."""
    def used():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime
    before = used()
    code, said = finish(process)
    assert code == 0, said
    return used() - before


def start_source(host, pattern, size):
    return Vmm(host, mem=size, vcpus=VCPUS, extra=PATTERNS[pattern])


def move(host, source, size, enter=(None, None)):
    """A VM is moved and checked. The reports of both sides, and CPU seconds of both; enter: before each is executed."""
    destination = Vmm(host, incoming=True, mem=size, vcpus=VCPUS)
    reports = host.name("send-json"), host.name("receive-json")
    taker = receive(host, destination, "--json", reports[1], "--channels", CHANNELS, listen="tcp:127.0.0.1:0",
                    before_exec=enter[1])
    uri = listening_uri(taker)
    await_memory(taker)
    giver = send(host, source, uri, "--json", reports[0], "--channels", CHANNELS, before_exec=enter[0])
    cpu_s = finish_and_count(giver), finish_and_count(taker)
    sent, received = map(read_json, reports)
    assert received["status"] == "completed", err_of(taker)
    destination.execute("stop")
    assert_whole(host, destination)
    return sent, received, cpu_s


def measure(host, pattern, size):
    """The counters of one move."""
    host.need(PAGE, pages_of(size))
    alone = raw_limits(host, size)
    source = start_source(host, pattern, size)
    beside_guest = raw_limits(host, size)
    sent, received, cpu_s = move(host, source, size)
    gib = received["transferred_bytes"] / G
    blocktime = received["blocktime"]
    return {
        "total_s": received["total_time_ns"] / 1e9,
        "downtime_ms": sent["downtime_ns"] / 1e6,
        "all_vcpus_blocked_ms": blocktime["overlapped_ns"] / 1e6,
        "worst_vcpu_blocked_ms": max(vcpu["blocktime_ns"] for vcpu in blocktime["vcpus"]) / 1e6,
        "source_cpu_s_per_gib": cpu_s[0] / gib,
        "destination_cpu_s_per_gib": cpu_s[1] / gib,
        "cpu_s_per_gib": sum(cpu_s) / gib,
        "raw_cpu_s_per_gib": alone["loop_cpu_s_per_gib"] + alone["allocation_cpu_s_per_gib"],
        "mib_per_s": received["transferred_bytes"] / M / (received["postcopy_time_ns"] / 1e9),
        "raw_mib_per_s": beside_guest["mib_per_s"],
        "raw_alone_mib_per_s": alone["mib_per_s"],
    }


def entry(host, name, once, repetitions):
    """once() gives the counters of a run."""
    runs = []
    try:
        for _ in range(repetitions):
            runs.append(once())
            host.end_processes()
    except Exception as error:  # any failure ends this benchmark, and only this one
        traceback.print_exc()
        host.end_processes()
        return {"name": name, "error_occurred": True, "error_message": str(error)}
    medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    return {"name": name, "run_name": name, "run_type": "iteration", "iterations": repetitions,
            "real_time": medians["total_s"], "cpu_time": medians["total_s"], "time_unit": "s", **medians}


def entries(host, arguments, suite, measure_once, patterns):
    for text, size in arguments.sizes:
        names = {pattern: f"{suite}/{pattern}/{text}" for pattern in patterns}
        asked = [pattern for pattern, name in names.items() if re.search(arguments.benchmark_filter, name)]
        if not asked:
            continue
        with warm_pages(host, PAGE, pages_of(size)):
            for pattern in asked:
                yield entry(host, names[pattern], lambda: measure_once(host, pattern, size),
                            arguments.benchmark_repetitions)


def run(document, suite, measure_once, sizes, patterns=PATTERNS):
    """A suite of moves: its exit code. measure_once(host, pattern, size) gives the counters of one."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("--sizes", type=lambda text: [size_of(part) for part in text.split(",")], default=sizes)
    parser.add_argument("--benchmark_filter", default="")
    parser.add_argument("--benchmark_repetitions", type=int, default=1)
    arguments, _ = parser.parse_known_args()  # other options of Google Benchmark mean nothing here
    host = Host(os.path.abspath(arguments.build))
    try:
        made = list(entries(host, arguments, suite, measure_once, patterns))
    finally:
        host.close()
    json.dump({"context": {"executable": sys.argv[0], "num_cpus": os.cpu_count()}, "benchmarks": made}, sys.stdout,
              indent=2)
    print()
    return 1 if not made or any("error_occurred" in one for one in made) else 0


if __name__ == "__main__":
    sys.exit(run(__doc__, "migrate", measure, "256M,1G"))
