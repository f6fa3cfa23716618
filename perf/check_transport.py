#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The suite of transports and what stands on it run, and say what they are to say. Nothing about time is looked at.

    check_transport.py BENCH-TRANSPORT HUGEFERRY-PERF
"""
import json
import os
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import figures  # noqa: E402
from checking import has_figures, run_cases  # noqa: E402

BENCH, PERF = map(os.path.abspath, sys.argv[1:3])
COMPARE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "compare")
QUICK = "--benchmark_min_time=0.01"
OF_A_RATIO = {"time_ratio_p25", "time_ratio_p50", "time_ratio_p75", "pairs", "page_bytes", "channels"}
OF_A_PAGE = {raw + rank for raw in ("", "raw_") for rank in ("p50_us", "p99_us", "p999_us")} | OF_A_RATIO
OF_A_STREAM = {raw + figure for raw in ("", "raw_") for figure in ("mib_per_s", "cpu_s_per_gib")} | OF_A_RATIO
LATENCY = {"MsgSize", "n_iterations", "t_min", "t_max", "t_typical", "t_avg", "t_stdev", "percentile_99",
           "percentile_99.9", "bare_t_typical", "bare_percentile_99"}
BANDWIDTH = {"MsgSize", "n_iterations", "BW_peak", "BW_average", "MsgRate", "bare_BW_average"}


def the_suite_measures_both_kinds_of_sockets():
    found = figures.run([BENCH, "--benchmark_format=json", QUICK, "--small",
                         "--benchmark_filter=/(4K|2M)/|channels:2/depth:0/"])
    expected = {f"{kind}/{scheme}/{rest}": fields for scheme in ("tcp", "unix") for kind, rest, fields in
                (("page_fetch", "4K", OF_A_PAGE), ("page_fetch", "2M", OF_A_PAGE),
                 ("stream", "channels:2/depth:0", OF_A_STREAM))}
    has_figures(found, expected)


def streams_stand_beside_iperf3_where_it_is():
    command = [BENCH, "--benchmark_format=json", QUICK, "--benchmark_filter=by_iperf3"]
    if os.path.exists("/usr/bin/iperf3"):
        counters = OF_A_STREAM - OF_A_RATIO | {"page_bytes", "channels"}
        has_figures(figures.run(command), {f"stream_by_iperf3/tcp/channels:{n}": counters for n in (1, 2)})
    else:
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stderr
        assert "iperf3 is not installed" in said, said


def what_has_no_address_is_said():
    try:
        figures.run([BENCH, "--benchmark_format=json", QUICK, "--uri=unix:/nonexistent/link",
                     "--benchmark_filter=/4K/"])
    except figures.Failed as error:
        assert "/nonexistent/link" in str(error), error
    else:
        raise AssertionError("it has run")


def measured(folder, *options, bare=True):
    """What a server has printed and written of a client."""
    report, both = f"{folder}/report", ["--bare", f"unix:{folder}/bare"] if bare else []
    with subprocess.Popen([PERF, "server", "tcp:127.0.0.1:0", *both, "--out_json_file", report, *options],
                          stdout=subprocess.PIPE, text=True) as server:
        uri = server.stdout.readline().split()[-1]
        client = subprocess.run([PERF, "client", uri, *both], check=False, timeout=120)
        said = server.stdout.read()
        server.wait(120)
        assert (server.returncode, client.returncode) == (0, 0), (server.returncode, client.returncode)
    with open(report, encoding="utf-8") as file:
        return said.splitlines(), json.load(file)


def a_server_and_a_client_print_the_columns_of_perftest():
    with tempfile.TemporaryDirectory(prefix="hf-perf-") as folder:
        said, report = measured(folder, "-s", "64K", "-n", "20", "-F", "-R")
        assert "t_typical[usec]" in said[1] and "99.9% percentile[usec]" in said[1], said
        assert len(report["results"]) == 1 and report["results"][0].keys() == LATENCY, report
        assert report["results"][0]["n_iterations"] == 20 and report["test_info"]["transport"] == "tcp", report
        said, report = measured(folder, "--test", "bw", "--size", "2M", "-D", "1", "--report_gbits", "-q", "3")
        assert "BW average[Gb/sec]" in said[1] and "MsgRate[Mpps]" in said[1], said
        assert report["results"][0].keys() == BANDWIDTH, report
        assert report["test_info"]["channels"] == 3 and report["test_info"]["BW_unit"] == "Gb/sec", report


def all_sizes_are_measured_in_one_run():
    with tempfile.TemporaryDirectory(prefix="hf-perf-") as folder:
        _, report = measured(folder, "-a", "-n", "5", bare=False)
        assert [line["MsgSize"] for line in report["results"]] == [4096 << i for i in range(19)], report


def compared(*builds):
    done = subprocess.run([COMPARE, *builds, "transport", "--rounds", "2", "--min-time", "0.01", "--filter", "tcp/4K/",
                           "--", "--small"], stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    head, *lines = done.stdout.splitlines()
    return head, {tuple(line.split()[:2]) for line in lines}


def builds_and_limits_are_compared_in_turns():
    build = os.path.dirname(os.path.dirname(BENCH))
    head, lines = compared(build)
    assert "raw limit" in head, head
    assert lines == {("page_fetch/tcp/4K", rank) for rank in ("p50_us", "p99_us", "p999_us")}, lines
    head, lines = compared(build, build)
    assert "A/B" in head and ("page_fetch/tcp/4K", "p50_us") in lines, (head, lines)


CASES = [
    the_suite_measures_both_kinds_of_sockets,
    streams_stand_beside_iperf3_where_it_is,
    what_has_no_address_is_said,
    a_server_and_a_client_print_the_columns_of_perftest,
    all_sizes_are_measured_in_one_run,
    builds_and_limits_are_compared_in_turns,
]


if __name__ == "__main__":
    sys.exit(run_cases(CASES))
