#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the scheduler runs, and what it counts keeps the promises. check_schedule.py BENCH-SCHEDULE

Nothing about time is looked at. Fetches are counted where they reach the link, which is a little after they were
decided, by as many as there are threads: hence the chunks that are let pass.
"""
import json
import subprocess
import sys

IN_BETWEEN_CHUNKS = 8


def run(program):
    """The counters of each benchmark, by name."""
    output = subprocess.run(
        [program, "--benchmark_filter=/2M", "--benchmark_min_time=0.1", "--benchmark_format=json"],
        check=True, stdout=subprocess.PIPE, text=True).stdout
    return {entry["name"].removesuffix("/manual_time"): entry for entry in json.loads(output)["benchmarks"]}


def failures(results):
    # Not the largest ones: on a busy host a thread may lose its processor between what it counts and the count.
    for link in "unix", "tcp":
        urgent, share = results[f"urgent_page/{link}/2M"], results[f"background_share/{link}/2M"]
        most = urgent["background_promised_max"] + IN_BETWEEN_CHUNKS
        if urgent["background_posted_p50"] > most:
            yield f"{link}: {urgent['background_posted_p50']} background chunks in front of a page, {most} are promised"
        if urgent["background_in_flight_max"] == 0:
            yield f"{link}: the background never ran beside a fault"
        if share["posted_chunks"] < 500:
            yield f"{link}: only {share['posted_chunks']} chunks were posted"
        if share["behind_p50_chunks"] > 1 + IN_BETWEEN_CHUNKS:
            yield f"{link}: the background is {share['behind_p50_chunks']} chunks behind its share"


def main():
    found = list(failures(run(sys.argv[1])))
    print("1..1")
    for line in found:
        print(f"# {line}")
    print(f"{'not ok' if found else 'ok'} 1 - the background keeps its promises over real links")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
