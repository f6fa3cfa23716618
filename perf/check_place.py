#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of placing runs, and every way has its limit beside it. check_place.py BENCH-PLACE"""
import json
import subprocess
import sys

WAYS = ("copy", "continue_allocates", "continue_preallocated")
TIMES = ("p50_us", "p99_us", "raw_p50_us", "ratio_p10", "ratio_p50", "ratio_p90")


def failures(results):
    for way in WAYS:
        entry = results[f"place/2MiB/{way}"]
        wanted = TIMES + (("continue_p50_us", "continue_p99_us") if way != "copy" else ())
        for name in wanted:
            if not entry.get(name, 0) > 0:
                yield f"{way}: {name} is {entry.get(name)}"
    if not results["place/2MiB/first_touch"]["p50_us"] > 0:
        yield "first_touch has taken no time"


def main():
    output = subprocess.run(
        [sys.argv[1], "--benchmark_filter=/2MiB/", "--benchmark_min_time=0.01", "--benchmark_format=json"],
        check=True, stdout=subprocess.PIPE, text=True).stdout
    results = {entry["name"].removesuffix("/manual_time"): entry for entry in json.loads(output)["benchmarks"]}
    found = list(failures(results))
    print("1..1")
    for line in found:
        print(f"# {line}")
    print(f"{'not ok' if found else 'ok'} 1 - every way of placing is measured beside its limit")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
