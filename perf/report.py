#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs suites and makes the tables and plots of PERFORMANCE.md: each figure beside its raw limit, and the goals.

    sudo perf/report.py BUILD [--into PERFORMANCE.md]       some minutes; plots go to perf/plots/

Suites run one after the other, each several rounds. A figure is the median of the rounds; a ratio to the raw limit is
taken within a round, and shown with its quartiles. BUILD is best made without -Ddeveloper.
"""
import argparse
import datetime
import os
import platform
import re
import statistics
import sys
from collections import namedtuple

sys.dont_write_bytecode = True

import figures  # noqa: E402
import plot  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
BEGIN, END = "<!-- made by perf/report.py -->", "<!-- end of the tables -->"
SUITES = ("place", "fault", "migrate", "inside", "transport", "engine")
BY_BENCHMARK = ("migrate", "inside", "engine")  # tables with a column for each counter
OPTIONS = {"engine": ["--benchmark_filter=time/"]}  # callgrind takes minutes, and its counts have no limit
# limit None: the counter is the ratio, or the difference, itself.
Goal = namedtuple("Goal", "what suite benchmark counter by_limit sign bound")
TOUCH, STREAM, BACKGROUND = "touch/tcp/continue/vcpus:1", "stream/tcp/channels:2/depth:0", "background/tcp/continue"
GOALS = (
    Goal("page fetch over TCP, latency", "transport", "page_fetch/tcp/2M", "p50_us", True, "<=", 1.10),
    Goal("page fetch over TCP, bandwidth", "transport", STREAM, "mib_per_s", True, ">=", 0.95),
    Goal("page fetch over TCP, CPU of both sides", "transport", STREAM, "cpu_s_per_gib", True, "<=", 1.15),
    Goal("fault, idle, by fetch and placement alone", "fault", TOUCH, "p50_us", True, "<=", 1.15),
    Goal("fault beside the background, p99 by idle p50", "fault", TOUCH, "busy_p99_by_idle_p50", False, "<=", 2),
    Goal("background, bandwidth", "fault", BACKGROUND, "mib_per_s", True, ">=", 0.95),
    Goal("background, CPU of both sides", "fault", BACKGROUND, "cpu_s_per_gib", True, "<=", 1.15),
    Goal("blocktime reported by felt, idle", "fault", TOUCH, "reported_by_felt", False, ">=", 0.95),
    Goal("blocktime that is missing a fault beside the background, us", "fault", TOUCH,
         "busy_felt_longer_us_per_fault", False, "<=", 100),
    Goal("whole migrations, bandwidth, by a loop beside the same guest", "migrate", "migrate/random/1G", "mib_per_s",
         True, ">=", 0.95),
    Goal("CPU of both programs, whole migrations, by loop and allocation", "migrate", "migrate/random/1G",
         "cpu_s_per_gib", True, "<=", 1.15),
    Goal("waits for locks, by page time", "inside", "inside/random/1G", "lock_waits_by_page_time", False, "<=", 0.01),
    Goal("memory of both programs beyond 32 MiB, by the guest's", "inside", "inside/random/4G",
         "memory_beyond_constant_by_guest", False, "<=", 0.001),
    Goal("memory of both engines, by the guest's 1 TiB", "engine", "time/1024GiB/16vcpus", "memory_by_guest", False,
         "<=", 0.001),
)


def size_text(size):
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << shift:
            return f"{size / (1 << shift):g} {unit}"
    return f"{size:g} B"


class Results:
    """Rounds of all suites."""

    def __init__(self, build, suites, rounds, min_time):
        self.suites, self.rounds = suites, [{} for _ in range(rounds)]
        for suite in suites:
            for one in self.rounds:
                one[suite] = figures.run_suite(build, suite, [f"--benchmark_min_time={min_time}",
                                                              *OPTIONS.get(suite, [])])

    def benchmarks(self, suite):
        return list(self.rounds[0][suite])

    def counters(self, suite, benchmark):
        return list(self.rounds[0][suite][benchmark])

    def values(self, suite, benchmark, counter):
        return [one[suite][benchmark][counter] for one in self.rounds]

    def median(self, suite, benchmark, counter):
        return statistics.median(self.values(suite, benchmark, counter))

    def ratio(self, suite, benchmark, counter):
        own, limit = (self.values(suite, benchmark, prefix + counter) for prefix in ("", figures.RAW))
        return figures.spread([a / b for a, b in zip(own, limit)])

    def reached(self, goal):
        if goal.by_limit:
            return self.ratio(goal.suite, goal.benchmark, goal.counter)
        return figures.spread(self.values(goal.suite, goal.benchmark, goal.counter))


def number(value):
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def rows(head, lines):
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines)]


def goals_table(results):
    lines = []
    for goal in (goal for goal in GOALS if goal.suite in results.suites):
        is_so = results.reached(goal)
        met = is_so.middle <= goal.bound if goal.sign == "<=" else is_so.middle >= goal.bound
        lines.append((goal.what, f"{goal.sign} {goal.bound:g}", f"{is_so.middle:.3g}",
                      f"{is_so.low:.3g} .. {is_so.high:.3g}", "yes" if met else "**no**",
                      f"`{goal.suite}` `{goal.benchmark}`"))
    return rows(("goal", "is to be", "is", "quartiles", "met", "suite and benchmark"), lines)


def figures_table(results, suite):
    lines = []
    for benchmark in results.benchmarks(suite):
        counters = results.counters(suite, benchmark)
        for counter in counters:
            if figures.RAW + counter in counters:
                spread = results.ratio(suite, benchmark, counter)
                lines.append((f"`{benchmark}`", f"`{counter}`", number(results.median(suite, benchmark, counter)),
                              number(results.median(suite, benchmark, figures.RAW + counter)), f"{spread.middle:.3f}",
                              f"{spread.low:.3f} .. {spread.high:.3f}"))
    return rows(("benchmark", "figure", "is", "raw limit", "ratio", "quartiles"), lines)


def counters_table(results, suite):
    """One line a benchmark, every counter a column."""
    benchmarks = results.benchmarks(suite)
    counters = results.counters(suite, benchmarks[0])
    return rows(("benchmark", *(f"`{counter}`" for counter in counters)),
                [(f"`{benchmark}`", *(number(results.median(suite, benchmark, counter)) for counter in counters))
                 for benchmark in benchmarks])


def line(results, suite, pattern, counter):
    """[(number in the name, median)] of the benchmarks that match; what is in the group is the number."""
    found = []
    for benchmark in results.benchmarks(suite):
        match = re.fullmatch(pattern, benchmark)
        if match:
            x = results.median(suite, benchmark, "page_bytes") if "page_fetch" in pattern else int(match[1])
            found.append((x, results.median(suite, benchmark, counter)))
    return sorted(found)


def plots_of_transport(results):
    fetch, stream = {}, {}
    for scheme in ("tcp", "unix"):
        for raw in ("", figures.RAW):
            name = f"raw {scheme}: a bare loop" if raw else f"{scheme}:"
            fetch[name] = line(results, "transport", f"page_fetch/{scheme}/.*", raw + "p50_us")
            stream[name] = line(results, "transport", rf"stream/{scheme}/channels:(\d+)/depth:0", raw + "mib_per_s")
    yield "page-fetch.svg", plot.plot("A page, first request to last byte (median)", "page", "us", fetch, size_text)
    yield "stream.svg", plot.plot("Streams of chunks", "channels, sockets", "MiB/s", stream, str)


def plots_of_fault(results):
    touch = {name: line(results, "fault", r"touch/tcp/continue/vcpus:(\d+)", counter) for name, counter in
             (("idle", "p50_us"), ("beside the background", "busy_p50_us"), ("its p99", "busy_p99_us"),
              ("raw: fetch, place", "raw_p50_us"))}
    yield "fault.svg", plot.plot("Pages of 2 MiB over tcp:, felt by the last of n vCPUs",
                                 "vCPUs that touch a page at once", "us", touch, str)


PLOTS = {"transport": plots_of_transport, "fault": plots_of_fault}


def memory_gib():
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)


def text(results, names, rounds):
    out = [BEGIN, "", f"Made {datetime.date.today()} on a machine with {os.cpu_count()} CPUs, {memory_gib():.0f} GiB, Linux "
           f"{platform.release()}; medians of {rounds} rounds.", "", *goals_table(results), ""]
    out += [f"![{name}](perf/plots/{name})" for name in names] + [""]
    for suite in results.suites:
        table = counters_table if suite in BY_BENCHMARK else figures_table
        out += [f"Suite `{suite}`:", "", *table(results, suite), ""]
    return "\n".join(out + [END])


def put_into(path, made):
    with open(path, encoding="utf-8") as file:
        document = file.read()
    before, _, rest = document.partition(BEGIN)
    _, end, behind = rest.partition(END)
    if not end:
        raise SystemExit(f"{path} has no lines '{BEGIN}' and '{END}'")
    with open(path, "w", encoding="utf-8") as file:
        file.write(before + made + behind)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("--into", metavar="FILE", help="replaces the tables there, instead of printing them")
    parser.add_argument("--plots", default=os.path.join(HERE, "plots"), metavar="DIRECTORY")
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=SUITES, help="only these")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--min-time", type=float, default=0.3, help="seconds each benchmark runs in a round")
    arguments = parser.parse_args()
    results = Results(arguments.build, arguments.suites, arguments.rounds, arguments.min_time)
    os.makedirs(arguments.plots, exist_ok=True)
    names = []
    for suite in results.suites:
        for name, drawing in PLOTS[suite](results) if suite in PLOTS else ():
            names.append(name)
            with open(os.path.join(arguments.plots, name), "w", encoding="utf-8") as file:
                file.write(drawing)
    made = text(results, names, arguments.rounds)
    if arguments.into:
        put_into(arguments.into, made)
    else:
        print(made)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except figures.Failed as failed:
        sys.exit(f"report: {failed}")
