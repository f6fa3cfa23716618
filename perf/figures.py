# SPDX-License-Identifier: Apache-2.0
"""What the suites print, read again: figures, the raw limit beside each, ratios with their spread.

A suite is BUILD/perf/bench-NAME, or here bench_NAME.py BUILD; it writes JSON as Google Benchmark does. A counter is a figure; where there is a counter
raw_X beside X, it is the limit of X, measured in the same run.
"""
import json
import os
import statistics
import subprocess
from collections import namedtuple

RAW = "raw_"
Spread = namedtuple("Spread", "low middle high")  # quartiles


class Failed(Exception):
    """A suite did not run to its end; the text is what it said."""


def program(build, suite):
    """The command."""
    built = os.path.join(build, "perf", f"bench-{suite}")
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"bench_{suite}.py")
    return [script, build] if os.path.exists(script) and not os.path.exists(built) else [built]


def run(command):
    """{benchmark: {counter: value}} of one run of a suite, in the order of the suite."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
                          check=False)
    try:
        entries = json.loads(done.stdout)["benchmarks"]
    except (ValueError, KeyError):
        entries = []
    errors = [f"{entry['name']}: {entry['error_message']}" for entry in entries if entry.get("error_occurred")]
    if errors or done.returncode or not entries:
        raise Failed("; ".join(errors) or f"{' '.join(command)}: exit code {done.returncode}, no benchmark; "
                     f"{done.stderr.strip()[-500:]}")
    return {entry["name"].removesuffix("/manual_time"): counters(entry) for entry in entries}


def run_suite(build, suite, options=()):
    return run([*program(build, suite), "--benchmark_format=json", *options])


# What Google Benchmark itself writes of a run.
OF_THE_LIBRARY = {"family_index", "per_family_instance_index", "repetitions", "repetition_index", "threads", "iterations",
                  "real_time", "cpu_time"}


def counters(entry):
    return {key: value for key, value in entry.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and key not in OF_THE_LIBRARY}


def with_limits(figures):
    """(name, figure, raw limit) of each counter that has one."""
    for name, value in figures.items():
        if RAW + name in figures:
            yield name, value, figures[RAW + name]


def spread(values):
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low, middle, high)
