#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What each mode of `send` does when the guest writes slower, or faster, than the link carries.

Two hosts are two network namespaces, joined by a veth whose rate tbf limits. For each mode and each write rate
a VM is moved, several times; what is printed is a Markdown table of medians, for PERFORMANCE.md. The guest
writes one page after the other, each once a pass, so every write dirties a page, and its own counters say how
many there were. After each run every byte of memory is checked where the VM is then, and that it runs there.
Wants root, /dev/kvm and some huge pages; gives everything back, also when it is interrupted.
"""
import collections
import json
import os
import statistics
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests/e2e"))

from host import (M, Vmm, assert_runs, assert_whole, err_of, finish, listening_uri, out_of,  # noqa: E402
                  receive, send, wait_until)
from networks import ADDRESSES, Networks  # noqa: E402
from results import machine, parse, print_table, read_json  # noqa: E402

PAGE = 2 * M
VCPUS = 2
WRITES = 3  # position of the guest's counter
WATCH_S = 1  # how long writes are counted before a move
IDLE_PACE = 50
CANCELLED = 3  # exit code of send
MODES = {"postcopy": [], "hybrid": ["--precopy"], "precopy-only": ["--precopy-only"]}
STREAM_S, STREAM_WARM_S = 2, 0.5

# One TCP stream, as fast as it goes: what the link carries of a program's bytes.
STREAM_TAKER = f"""
import socket, time
with socket.create_server(("{ADDRESSES[1]}", 5001)) as server:
    print("listening", flush=True)
    link, _ = server.accept()
buffer, got, begin, since = bytearray(1 << 20), 0, time.monotonic(), None
while taken := link.recv_into(buffer):
    now = time.monotonic()
    if since is None and now - begin > {STREAM_WARM_S}:
        since, taken = now, 0
    if since is not None:
        got, end = got + taken, now
print(int(got / (end - since)), flush=True)
"""
STREAM_GIVER = f"""
import socket, time
end, data = time.monotonic() + {STREAM_S}, bytes(1 << 20)
with socket.create_connection(("{ADDRESSES[1]}", 5001)) as link:
    while time.monotonic() < end:
        link.sendall(data)
"""


def measure_link(host, rate):
    """Bytes a second of one TCP stream."""
    networks = Networks(host, rate)
    taker = host.start(sys.executable, "-c", STREAM_TAKER, before_exec=networks.enter(1))
    wait_until(lambda: "listening" in out_of(taker), "the stream's end listens")
    giver = host.start(sys.executable, "-c", STREAM_GIVER, before_exec=networks.enter(0))
    assert finish(giver)[0] == 0 and finish(taker)[0] == 0, err_of(taker)
    rate_bytes_per_s = int(out_of(taker).splitlines()[-1])
    host.end_processes()
    return rate_bytes_per_s


def guest(ratio, link_bytes_per_s):
    """Options of a guest that writes at this part of the link's rate."""
    writes_per_s = ratio * link_bytes_per_s / PAGE
    pace = max(1, round(writes_per_s / VCPUS)) if ratio else IDLE_PACE
    return ["--pattern", "sequential", "--write-share", 100 if ratio else 0, "--pace", pace]


def count_writes(vmm):
    """Bytes a second that the guest dirties."""
    before, begin = vmm.counted(WRITES), time.monotonic()
    time.sleep(WATCH_S)
    writes, end = vmm.counted(WRITES) - before, time.monotonic()
    return writes * PAGE / (end - begin)


def check(host, vmm):
    assert_runs(vmm)
    assert vmm.errors() == 0, "the guest has found wrong words"
    assert_whole(host, vmm)


def how_it_ended(code, giver, timeout_s):
    if code == CANCELLED:
        return f"cancelled after {timeout_s} s"
    precopy = giver["precopy"]
    return precopy["ended_because"] if precopy else "no rounds"


def figures(options, code, giver, taker):
    precopy = giver["precopy"] or {}
    blocktime = taker.get("blocktime") or {}
    worst = max((vcpu["blocktime_ns"] for vcpu in blocktime.get("vcpus", [])), default=None)
    completed = code == 0
    return {
        "rounds": precopy.get("rounds"),
        "ended": how_it_ended(code, giver, options.timeout),
        "total_s": giver["total_time_ns"] / 1e9,
        "expected_ms": precopy["expected_downtime_ns"] / 1e6 if precopy.get("expected_downtime_ns") else None,
        "downtime_ms": giver["downtime_ns"] / 1e6 if completed else None,
        "moved": giver["sent_bytes"] / options.mem,
        "round_rate": precopy.get("rate_bytes_per_s") or None,
        "overlapped_ms": blocktime["overlapped_ns"] / 1e6 if completed else None,
        "worst_ms": worst / 1e6 if completed else None,
        "runs_at": giver["vm_owner"],
    }


def move(host, options, mode, ratio, link_bytes_per_s):
    """One run; what it measured."""
    host.need(PAGE, 2 * options.mem // PAGE + 64)
    networks = Networks(host, options.rate)
    source = Vmm(host, mem=options.mem, vcpus=VCPUS, extra=guest(ratio, link_bytes_per_s))
    destination = Vmm(host, incoming=True, mem=options.mem, vcpus=VCPUS)
    reports = host.name("send-json"), host.name("receive-json")
    taker = receive(host, destination, "--json", reports[1], listen=f"tcp:{ADDRESSES[1]}:0",
                    before_exec=networks.enter(1))
    uri = listening_uri(taker)
    wrote = count_writes(source)
    precopy = ["--attach", source.attach, *MODES[mode], "--downtime-limit", options.downtime_limit]
    limits = ["--timeout", options.timeout] if mode == "precopy-only" else []
    giver = send(host, source, uri, "--json", reports[0], *(precopy if mode != "postcopy" else []), *limits,
                 before_exec=networks.enter(0))
    code = finish(giver)[0]
    assert code == 0 or (code == CANCELLED and limits), err_of(giver)
    assert (finish(taker)[0] == 0) == (code == 0), err_of(taker)
    check(host, source if code else destination)
    found = figures(options, code, *map(read_json, reports))
    host.end_processes()
    return {"ratio": wrote / link_bytes_per_s, **found}


# ---- the table ----

def agreed(texts):
    """What all runs say; where they differ, how many say what."""
    counts = collections.Counter(texts).most_common()
    return counts[0][0] if len(counts) == 1 else "; ".join(f"{count} x {text}" for text, count in counts)


def median(runs, key, text):
    values = [run[key] for run in runs if run[key] is not None]
    return text.format(statistics.median(values)) if values else "-"


def row(mode, runs, link_bytes_per_s):
    used = [run["round_rate"] / link_bytes_per_s for run in runs if run["round_rate"]]
    cells = [
        mode,
        median(runs, "ratio", "{:.2f}"),
        median(runs, "rounds", "{:.0f}"),
        agreed(run["ended"] for run in runs),
        median(runs, "total_s", "{:.1f}"),
        f"{statistics.median(used):.2f}" if used else "-",
        median(runs, "expected_ms", "{:.0f}"),
        median(runs, "downtime_ms", "{:.0f}"),
        median(runs, "moved", "{:.2f}"),
        median(runs, "overlapped_ms", "{:.0f}"),
        median(runs, "worst_ms", "{:.0f}"),
        agreed(run["runs_at"] for run in runs),
    ]
    return f"| {' | '.join(cells)} |"


HEAD = ["mode", "writes / link", "rounds", "ended because", "total s", "link used", "expected downtime ms",
        "downtime ms", "moved / VM", "all vCPUs blocked ms", "worst vCPU ms", "VM runs at"]


def head(options, link_bytes_per_s):
    yield (f"Made {time.strftime('%Y-%m-%d')} on a machine with {machine()}: a VM of {options.mem // M} MiB in pages of"
           f" 2 MiB with {VCPUS} vCPUs,\na link of {options.rate} on which one TCP stream carries"
           f" {link_bytes_per_s / M:.0f} MiB/s, `--downtime-limit {options.downtime_limit}`;"
           f" medians of {options.runs}.\n")
    yield f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}"


def more_options(parser):
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--ratios", nargs="+", type=float, default=[0, 0.25, 0.5, 0.9, 1.5, 4],
                        help="write rates, as parts of the link's rate")
    parser.add_argument("--rate", default="1gbit", help="of the link, as tc takes it")
    parser.add_argument("--downtime-limit", type=int, default=100, help="ms")
    parser.add_argument("--timeout", type=int, default=10, help="s, of precopy-only")


def measure(host, options):
    """The lines of the table, as they come."""
    link_bytes_per_s = measure_link(host, options.rate)
    yield from head(options, link_bytes_per_s)
    for mode in options.modes:
        for ratio in options.ratios:
            runs = []
            for _ in range(options.runs):
                runs.append(move(host, options, mode, ratio, link_bytes_per_s))
                if options.log:
                    print(mode, ratio, json.dumps(runs[-1]), file=sys.stderr, flush=True)
            yield row(mode, runs, link_bytes_per_s)


if __name__ == "__main__":
    sys.exit(print_table(parse(__doc__, 3, "of each row", 128, more_options), measure))
