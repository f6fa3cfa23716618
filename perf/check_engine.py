#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What the engines cost a page does not grow with the VM, and they allocate nothing while pages move.
check_engine.py BENCH-ENGINE

Instructions are counted, not timed: the count repeats exactly.
"""
import json
import subprocess
import sys

SMALL, LARGE = "instructions/1GiB/16vcpus", "instructions/16GiB/16vcpus"
FEW, MANY = "time/64GiB/1vcpus", "time/64GiB/1000vcpus"
GROWTH_MAX = 1.1


def run(program, names):
    output = subprocess.run(
        [program, f"--benchmark_filter=^({'|'.join(names)})/", "--benchmark_min_time=0.01", "--benchmark_format=json"],
        check=True, stdout=subprocess.PIPE, text=True).stdout
    return {entry["name"].removesuffix("/manual_time"): entry for entry in json.loads(output)["benchmarks"]}


def failures(results):
    for name in (SMALL, LARGE, FEW, MANY):
        entry = results[name]
        if entry["allocations_while_running"] != 0:
            yield f"{name}: {entry['allocations_while_running']} allocations between hand-over and last page"
        if entry["chunks_per_page"] != 8 or entry["faults_per_page"] != 0.25:
            yield f"{name}: another migration was run than was asked for: {entry}"
    small, large = (results[name]["instructions_per_page"] for name in (SMALL, LARGE))
    if not small or large > small * GROWTH_MAX:
        yield f"a page of a VM 16 times as large takes {large} instructions, {small} in the small one"
    if results[MANY]["vcpus_waiting_max"] != 1000:
        yield f"only {results[MANY]['vcpus_waiting_max']} of 1000 vCPUs have waited at once"


def main():
    found = list(failures(run(sys.argv[1], (SMALL, LARGE, FEW, MANY))))
    print("1..1")
    for line in found:
        print(f"# {line}")
    print(f"{'not ok' if found else 'ok'} 1 - the engines' cost of a page is flat")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
