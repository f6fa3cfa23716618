#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Whole migrations of the reference VMM by postcopy, over tcp: on this host; JSON as Google Benchmark writes it.

    bench_migrate.py BUILD [--sizes 256M,1G] [--benchmark_filter=RE] [--benchmark_repetitions=N]

A benchmark is migrate/PATTERN/SIZE: the guest reads and writes in a row, at random, or mostly a hot set. Counters: total
time, downtime, what vCPUs were blocked (all at once, and the worst), CPU seconds of `send` and of `receive` a GiB of page
payload, and payload a second of postcopy. The limit of that one is a bare loop over as many sockets, just before. After
each move every byte is checked. Wants root, /dev/kvm and huge pages for two VMs of the size; gives them back.
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

from host import (G, M, Host, Vmm, assert_whole, err_of, finish, listening_uri, out_of,
                  receive, send, wait_until)  # noqa: E402

PAGE = 2 * M
VCPUS = 2
CHANNELS = 2
PATTERNS = ("sequential", "random", "hot")
UNITS = {"M": M, "G": G}


def size_of(text):
    match = re.fullmatch(r"(\d+)([MG])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is no size such as 256M or 1G")
    return text, int(match[1]) * UNITS[match[2]]


def read_json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def bare_uri(server):
    return wait_until(lambda: re.search(r"^bare loop at (\S+)\n", out_of(server), re.MULTILINE), "it has a bare loop")[1]


def bare_mib_per_s(host):
    """What sockets carry here at this moment."""
    perf, report = os.path.join(host.build, "perf/hugeferry-perf"), host.name("perf")
    server = host.start(perf, "server", "tcp:127.0.0.1:0", "--bare", "tcp:127.0.0.1:0", "--test", "bw", "-s", PAGE, "-n",
                        256, "-q", CHANNELS, "--out_json_file", report)
    uri = listening_uri(server)
    client = host.start(perf, "client", uri, "--bare", bare_uri(server))
    for process in (client, server):
        code, said = finish(process)
        assert code == 0, said
    return read_json(report)["results"][0]["bare_BW_average"]


def finish_and_count(process):
    """Waits for it; its CPU seconds, with those of its own children."""
    def used():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime
    before = used()
    code, said = finish(process)
    assert code == 0, said
    return used() - before


def move(host, pattern, size):
    host.need(PAGE, 2 * size // PAGE + 64)
    raw = bare_mib_per_s(host)
    source = Vmm(host, mem=size, vcpus=VCPUS, extra=("--pattern", pattern))
    destination = Vmm(host, incoming=True, mem=size, vcpus=VCPUS)
    reports = host.name("send-json"), host.name("receive-json")
    taker = receive(host, destination, "--json", reports[1], "--channels", CHANNELS, listen="tcp:127.0.0.1:0")
    giver = send(host, source, listening_uri(taker), "--json", reports[0], "--channels", CHANNELS)
    giver_cpu_s = finish_and_count(giver)
    taker_cpu_s = finish_and_count(taker)
    sent, received = map(read_json, reports)
    assert received["status"] == "completed", err_of(taker)
    destination.execute("stop")
    assert_whole(host, destination)
    gib = received["transferred_bytes"] / G
    blocktime = received["blocktime"]
    return {
        "total_s": received["total_time_ns"] / 1e9,
        "downtime_ms": sent["downtime_ns"] / 1e6,
        "all_vcpus_blocked_ms": blocktime["overlapped_ns"] / 1e6,
        "worst_vcpu_blocked_ms": max(vcpu["blocktime_ns"] for vcpu in blocktime["vcpus"]) / 1e6,
        "source_cpu_s_per_gib": giver_cpu_s / gib,
        "destination_cpu_s_per_gib": taker_cpu_s / gib,
        "mib_per_s": received["transferred_bytes"] / M / (received["postcopy_time_ns"] / 1e9),
        "raw_mib_per_s": raw,
    }


def entry(host, name, pattern, size, repetitions):
    runs = []
    try:
        for _ in range(repetitions):
            runs.append(move(host, pattern, size))
            host.end_processes()
    except Exception as error:  # any failure ends this benchmark, and only this one
        traceback.print_exc()
        host.end_processes()
        return {"name": name, "error_occurred": True, "error_message": str(error)}
    medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    return {"name": name, "run_name": name, "run_type": "iteration", "iterations": repetitions,
            "real_time": medians["total_s"], "cpu_time": medians["total_s"], "time_unit": "s", **medians}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("--sizes", type=lambda text: [size_of(part) for part in text.split(",")], default="256M,1G")
    parser.add_argument("--benchmark_filter", default="")
    parser.add_argument("--benchmark_repetitions", type=int, default=1)
    arguments, _ = parser.parse_known_args()  # other options of Google Benchmark mean nothing here
    host = Host(os.path.abspath(arguments.build))
    try:
        entries = [entry(host, f"migrate/{pattern}/{text}", pattern, size, arguments.benchmark_repetitions)
                   for text, size in arguments.sizes for pattern in PATTERNS
                   if re.search(arguments.benchmark_filter, f"migrate/{pattern}/{text}")]
    finally:
        host.close()
    json.dump({"context": {"executable": sys.argv[0], "num_cpus": os.cpu_count()}, "benchmarks": entries}, sys.stdout,
              indent=2)
    print()
    return 1 if not entries or any("error_occurred" in one for one in entries) else 0


if __name__ == "__main__":
    sys.exit(main())
