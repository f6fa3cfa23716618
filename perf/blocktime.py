#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Is the blocktime that `receive` reports the time that vCPUs were blocked?

A VM is moved, several times in each way, and the sum of its vCPUs' blocktimes is laid beside what two others saw of the
same waits: the guest, which reads its own clock before and after a load (kvm/guest/program.c), and the kernel, whose
function graph tracer times each wait in handle_userfault(), where it has that tracer (Debian's kernels do: run it in the
testbed). With the background held, every page comes by a fault and the link is idle otherwise; else the background runs
at full speed beside. Prints a Markdown table of medians. Wants root, /dev/kvm and huge pages; gives everything back,
also when it is interrupted.
"""
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests/e2e"))

from host import M, Vmm, assert_runs, assert_whole, err_of, finish, listening_uri, receive, send  # noqa: E402
from results import machine, parse, print_table  # noqa: E402

PAGE = 2 * M
LAST_TICKS, STALLED = 6, 13  # positions of the guest's counters
CLOCK_S = 1  # for how long its clock is compared with ours
WAYS = {"held": ("--no-background",), "full speed": ()}
PLACEMENTS = "continue", "copy"


# ---- the kernel's view ----

class Tracer:
    """Times handle_userfault() of every thread while it is open."""

    WAIT = re.compile(r"-(\d+)\s*\|[^\d|]*([\d.]+) us\s*\|")

    def __init__(self, folder):
        self.folder = folder

    def has(self, name, word):
        with open(os.path.join(self.folder, name), encoding="ascii") as file:
            return word in file.read().split()

    def set(self, name, value):
        with open(os.path.join(self.folder, name), "w", encoding="ascii") as file:
            file.write(str(value))

    def start(self):
        self.set("buffer_size_kb", 4096)
        self.set("set_graph_function", "handle_userfault")
        self.set("max_graph_depth", 1)
        self.set("options/funcgraph-proc", 1)
        self.set("options/sleep-time", 1)
        self.set("current_tracer", "function_graph")
        self.set("tracing_on", 1)

    def clear(self):
        self.set("trace", "")

    def waits_us(self, threads):
        """The waits of these threads since it was cleared."""
        with open(os.path.join(self.folder, "trace"), encoding="utf-8") as file:
            found = [self.WAIT.search(line) for line in file]
        return [float(match.group(2)) for match in found if match and int(match.group(1)) in threads]

    def stop(self):
        self.set("tracing_on", 0)
        self.set("current_tracer", "nop")
        self.set("options/funcgraph-proc", 0)
        self.set("max_graph_depth", 0)
        self.set("set_graph_function", "")


@contextlib.contextmanager
def kernel_view():
    """A Tracer, or None where this kernel has none for it."""
    folder = tempfile.mkdtemp(prefix="hf-tracing-")
    try:
        if subprocess.run(["mount", "-t", "tracefs", "none", folder], check=False, stderr=subprocess.DEVNULL).returncode:
            yield None
            return
        try:
            tracer = Tracer(folder)
            if not tracer.has("available_tracers", "function_graph"):
                yield None
                return
            try:
                tracer.start()
                yield tracer
            finally:
                tracer.stop()
        finally:
            subprocess.run(["umount", folder], check=True)
    finally:
        os.rmdir(folder)


# ---- one migration ----

def ticks_per_s(vmm, vcpus):
    ticks, begin = vmm.counted(LAST_TICKS), time.monotonic()
    time.sleep(CLOCK_S)
    return (vmm.counted(LAST_TICKS) - ticks) / vcpus / (time.monotonic() - begin)


def move(host, mem, vcpus, placement, words, tracer):
    host.need(PAGE, 2 * mem // PAGE + 96)
    shape = {"mem": mem, "vcpus": vcpus}
    source = Vmm(host, extra=("--pattern", "random"), **shape)
    destination = Vmm(host, incoming=True, **shape)
    clock, stalled = ticks_per_s(source, vcpus), source.counted(STALLED)
    threads = {vcpu["thread-id"] for vcpu in destination.execute("query-cpus-fast")}
    if tracer:
        tracer.clear()
    path = host.name("json")
    taker = receive(host, destination, "--placement", placement, "--json", path)
    giver = send(host, source, listening_uri(taker), *words)
    assert finish(giver)[0] == 0 and finish(taker)[0] == 0, (err_of(giver), err_of(taker))
    with open(path, encoding="utf-8") as file:
        report = json.load(file)
    guest_us = (destination.counted(STALLED) - stalled) / clock * 1e6
    blocktimes = report["blocktime"]["vcpus"]
    waits_us = tracer.waits_us(threads) if tracer else None
    assert_runs(destination)
    assert_whole(host, destination)
    host.end_processes()
    return {"faults": sum(vcpu["faults"] for vcpu in blocktimes),
            "reported_us": sum(vcpu["blocktime_ns"] for vcpu in blocktimes) / 1e3,
            "guest_us": guest_us, "kernel_us": sum(waits_us) if tracer else None,
            "kernel_waits": len(waits_us) if tracer else None}


# ---- the table ----

COLUMNS = ("placement", "background", "faults", "reported ms", "guest ms", "guest / reported",
           "guest - reported, us a fault", "kernel ms", "kernel / reported", "kernel - reported, us a fault")


def beside(runs, view):
    """Three cells: the other's view, as a ratio, and by how much a fault differs; medians."""
    if runs[0][view] is None:
        return ["-", "-", "-"]
    return [f"{statistics.median(run[view] for run in runs) / 1e3:.1f}",
            f"{statistics.median(run[view] / run['reported_us'] for run in runs):.3f}",
            f"{statistics.median((run[view] - run['reported_us']) / run['faults'] for run in runs):+.0f}"]


def row(placement, background, runs):
    reported = f"{statistics.median(run['reported_us'] for run in runs) / 1e3:.1f}"
    faults = f"{statistics.median(run['faults'] for run in runs):.0f}"
    cells = [placement, background, faults, reported, *beside(runs, "guest_us"), *beside(runs, "kernel_us")]
    return f"| {' | '.join(cells)} |"


def measure(host, options):
    yield (f"Made {time.strftime('%Y-%m-%d')} on a machine with {machine()}, load {os.getloadavg()[0]:.1f}: a VM of"
           f" {options.mem // M} MiB in pages of 2 MiB with\n{options.vcpus} vCPUs, loopback; sums over the vCPUs, medians"
           f" of {options.runs} runs.\n")
    yield f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"
    with kernel_view() as tracer:
        for placement in PLACEMENTS:
            for background, words in WAYS.items():
                runs = [move(host, options.mem, options.vcpus, placement, words, tracer)
                        for _ in range(options.runs)]
                if options.log:
                    print(json.dumps(runs), file=sys.stderr, flush=True)
                yield row(placement, background, runs)


def more_options(parser):
    parser.add_argument("--vcpus", type=int, default=2)


if __name__ == "__main__":
    sys.exit(print_table(parse(__doc__, 3, "of each row", 512, more_options), measure))
