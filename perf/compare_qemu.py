#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Hugeferry beside QEMU's own postcopy: the same QEMU, guest and link, in one run, one after the other; several QEMUs.

A round moves a VM once in each way: by QEMU's postcopy, by that with postcopy-preempt, by Hugeferry. What is compared
is compared within a round; what is printed are medians over the rounds. The guest (kvm/guest/program.c) reads and
writes pages at random on each vCPU and measures by its own clock how long its loads wait. Times that both have are
taken in the same way for both: downtime and end from the events of the QEMUs. After each run every byte of memory is
checked, and that no heartbeat is missing. Wants root and huge pages; gives everything back, also when it is
interrupted. Over loopback a bare socket loop (perf/bare_loop.h) carries as many bytes after each round,
alone and beside the same guest.
"""
import itertools
import json
import os
import statistics
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests/e2e"))

from bench_migrate import raw_limits  # noqa: E402
from host import M, Qmp, assert_whole, await_memory, finish, free_port, listening_uri, receive, send  # noqa: E402
from networks import ADDRESSES, Networks  # noqa: E402
from qemu_flat import ACCEL, PATTERNS, FlatQemu, assert_one_guest, emulator  # noqa: E402
from results import machine, parse, print_table, read_json, warm_pages  # noqa: E402
from vm import CACHE  # noqa: E402

PAGE = 2 * M
LAST_TICKS, LONGEST, STALLED = 6, 7, 13  # positions of the guest's counters
CLOCK_S = 1  # for how long its clock is compared with ours
LOOPBACK = "loopback"
QEMU, PREEMPT, HUGEFERRY = "QEMU", "QEMU, preempt", "Hugeferry"
LOOP, LOOP_BESIDE = "a bare loop", "a bare loop beside the guest"


class Watch(Qmp):
    """A QMP client that keeps the events it meets."""

    def __init__(self, path):
        self.events = []
        super().__init__(path)

    def note(self, line):
        """One line; what is no event is returned."""
        said = json.loads(line)
        if "event" not in said:
            return said
        self.events.append(said)
        return None

    def execute(self, command, **arguments):
        self.write({"execute": command, "arguments": arguments})
        while True:
            answer = self.note(self.file.readline())
            if answer:
                assert "return" in answer, f"{command}: {answer}"
                return answer["return"]

    def at(self, name, **data):
        """When the event came, in seconds; the VMM may have ended since."""
        end = time.monotonic() + 60
        while True:
            for event in self.events:
                if event["event"] == name and all(event["data"].get(key) == value for key, value in data.items()):
                    stamp = event["timestamp"]
                    return stamp["seconds"] + stamp["microseconds"] / 1e6
            assert time.monotonic() < end, f"no event {name}"
            self.note(self.file.readline())


def pages_of(options):
    """Of two VMs, and what `copy` would stage."""
    return 2 * options.mem // PAGE + 96


def shape_of(options, qemu, pattern, lent):
    return {"mem": options.mem, "vcpus": options.vcpus, "pattern": pattern, "fill_percent": 100, "qemu": qemu,
            "accel": options.accel, "lent": lent}


class Pair:
    """Source and destination of a run, and what the guest has measured until now."""

    def __init__(self, host, options, qemu, rate, pattern, lent):
        host.need(PAGE, pages_of(options))
        networks = Networks(host, rate) if rate != LOOPBACK else None
        self.address = ADDRESSES[1] if networks else "127.0.0.1"
        self.enter = [networks.enter(number) if networks else None for number in range(2)]
        shape = shape_of(options, qemu, pattern, lent)
        self.host = host
        self.source = FlatQemu(host, before_exec=self.enter[0], **shape)
        self.destination = FlatQemu(host, incoming=True, before_exec=self.enter[1], **shape)
        self.watches = [Watch(vmm.monitor) for vmm in (self.source, self.destination)]
        for watch in self.watches:
            set_capabilities(watch, "events")
        self.ticks_per_s = self.measure_clock()
        self.stalled = self.source.counted(STALLED)

    def measure_clock(self):
        ticks, begin = self.source.counted(LAST_TICKS), time.monotonic()
        time.sleep(CLOCK_S)
        ticks, end = self.source.counted(LAST_TICKS) - ticks, time.monotonic()
        return ticks / self.source.vcpus / (end - begin)

    def figures(self, begin, end, overlapped_ms, vcpus_ms):
        """After the VM has been moved; ends it."""
        stopped = self.watches[0].at("STOP")
        downtime_ms = (self.watches[1].at("RESUME") - stopped) * 1e3
        stalled = self.destination.counted(STALLED) - self.stalled
        longest = max(self.destination.counted_each(LONGEST))
        for watch in self.watches:
            watch.close()
        self.destination.wait_beats(1)
        assert self.destination.errors() == 0, "the guest has found wrong words"
        assert_whole(self.host, self.destination)
        assert_one_guest(self.source, self.destination)
        self.host.end_processes()
        return {"total_ms": (end - begin) * 1e3, "downtime_ms": downtime_ms, "overlapped_ms": overlapped_ms,
                "vcpus_ms": vcpus_ms, "worst_ms": max(vcpus_ms), "stalled_ms": stalled / self.ticks_per_s * 1e3,
                "longest_ms": longest / self.ticks_per_s * 1e3}


def set_capabilities(watch, *names):
    watch.execute("migrate-set-capabilities",
                  capabilities=[{"capability": name, "state": True} for name in names])


def move_by_qemu(*capabilities):
    def move(host, options, qemu, rate, pattern):
        pair = Pair(host, options, qemu, rate, pattern, lent=False)
        source, destination = pair.watches
        for watch in pair.watches:
            set_capabilities(watch, "postcopy-ram", *capabilities)
            watch.execute("migrate-set-parameters", **{"max-bandwidth": 0, "max-postcopy-bandwidth": 0})
        set_capabilities(destination, "postcopy-blocktime")
        uri = f"tcp:{pair.address}:{free_port()}"
        destination.execute("migrate-incoming", uri=uri)
        begin = time.time()
        source.execute("migrate", uri=uri)
        source.execute("migrate-start-postcopy")
        end = max(watch.at("MIGRATION", status="completed") for watch in pair.watches)
        info = destination.execute("query-migrate")
        return pair.figures(begin, end, info["postcopy-blocktime"], info["postcopy-vcpu-blocktime"])
    return move


def move_by_hugeferry(host, options, qemu, rate, pattern):
    pair = Pair(host, options, qemu, rate, pattern, lent=True)
    paths = host.name("send-json"), host.name("receive-json")
    control = host.name("control")
    taker = receive(host, pair.destination, "--json", paths[1], "--qmp", f"unix:{control}",
                    listen=f"tcp:{pair.address}:0", before_exec=pair.enter[1])
    uri = listening_uri(taker)
    await_memory(taker)
    watch = Watch(control)
    begin = time.time()
    giver = send(host, pair.source, uri, "--json", paths[0], before_exec=pair.enter[0])
    end = watch.at("MIGRATION", status="completed")
    watch.close()
    codes = [finish(process) for process in (taker, giver)]
    assert [code for code, _ in codes] == [0, 0], codes
    given, taken = map(read_json, paths)
    blocktime = taken["blocktime"]
    vcpus_ms = [vcpu["blocktime_ns"] / 1e6 for vcpu in blocktime["vcpus"]]
    return {**pair.figures(begin, end, blocktime["overlapped_ns"] / 1e6, vcpus_ms), "parts_ms": parts(given, taken)}


def parts(given, taken):
    """Where Hugeferry's total and downtime go."""
    found = {"set-up": taken["setup_time_ns"], "postcopy": taken["postcopy_time_ns"], "stop": given["stop_time_ns"],
             "save": given["save_time_ns"], "load": taken["load_time_ns"], "fence": given["fence_time_ns"],
             "records": given["record_time_ns"] + taken["record_time_ns"]}
    return {name: time_ns / 1e6 for name, time_ns in found.items()}


def carry_by_loop(host, options, qemu, pattern, beside):
    """How long as many bytes take over sockets: when nothing else runs, or beside the guest, whose vCPUs want CPUs too."""
    host.need(PAGE, pages_of(options))
    if beside:
        FlatQemu(host, **shape_of(options, qemu, pattern, lent=False))
    total_ms = options.mem / M / raw_limits(host, "2M")["mib_per_s"] * 1e3
    host.end_processes()
    return {"total_ms": total_ms}


WAYS = {QEMU: move_by_qemu(), PREEMPT: move_by_qemu("postcopy-preempt"), HUGEFERRY: move_by_hugeferry}


# ---- the table ----

COLUMNS = {"total_ms": "total ms", "downtime_ms": "downtime ms", "overlapped_ms": "all vCPUs blocked ms",
           "worst_ms": "worst vCPU blocked ms", "stalled_ms": "stalls in the guest ms",
           "longest_ms": "longest gap in the guest ms"}
COMPARED = "total_ms", "downtime_ms", "overlapped_ms", "stalled_ms"
COMPARISONS = (HUGEFERRY, QEMU), (HUGEFERRY, PREEMPT), (LOOP, PREEMPT), (LOOP_BESIDE, PREEMPT)


def head(options):
    versions = " and ".join(qemu.version() for qemu in options.qemu)
    yield (f"Made {time.strftime('%Y-%m-%d')} on a machine with {machine()}, load {os.getloadavg()[0]:.1f}: QEMU"
           f" {versions} ({options.accel}),\na VM of {options.mem // M} MiB in pages of 2 MiB with"
           f" {options.vcpus} vCPUs; medians of {options.runs} rounds.\n")
    yield f"| QEMU: link, guest | | {' | '.join(COLUMNS.values())} |\n|{'---|' * (len(COLUMNS) + 2)}"


def place(each):
    return f"{each['qemu']}: {each['rate']}, {each['pattern']}"


def row(where, way, runs):
    cells = [f"{statistics.median(run[key] for run in runs):.0f}" if key in runs[0] else "-" for key in COLUMNS]
    return f"| {where} | {way} | {' | '.join(cells)} |"


def ratio(rounds, one, other, key):
    """One way by another, within each round; the median of that. None if either has nothing."""
    found = [each[one][key] / each[other][key] for each in rounds
             if one in each and key in each[one] and each[other].get(key)]
    return statistics.median(found) if found else None


def ratios(rounds):
    return {f"{one} / {other}": {key: ratio(rounds, one, other, key) for key in COMPARED}
            for one, other in COMPARISONS}


def ratio_row(where, names, found):
    cells = [f"{found[key]:.2f}" if found.get(key) is not None else "-" for key in COLUMNS]
    return f"| {where} | {names} | {' | '.join(cells)} |"


def part_rows(found):
    names = list(found[0]["rounds"][0][HUGEFERRY]["parts_ms"])
    yield f"\n| Hugeferry | {' | '.join(f'{name} ms' for name in names)} |\n|{'---|' * (len(names) + 1)}"
    for each in found:
        cells = [f"{statistics.median(ways[HUGEFERRY]['parts_ms'][name] for ways in each['rounds']):.1f}"
                 for name in names]
        yield f"| {place(each)} | {' | '.join(cells)} |"


def play(host, options, qemu, rate, pattern):
    """The rounds of one QEMU on one kind of link with one kind of guest; who is first changes."""
    rounds = []
    for number in range(options.runs):
        first = number % len(WAYS)
        order = list(WAYS)[first:] + list(WAYS)[:first]
        rounds.append({way: WAYS[way](host, options, qemu, rate, pattern) for way in order})
        if rate == LOOPBACK:
            rounds[-1][LOOP] = carry_by_loop(host, options, qemu, pattern, beside=False)
            rounds[-1][LOOP_BESIDE] = carry_by_loop(host, options, qemu, pattern, beside=True)
        if options.log:
            print(qemu.version(), rate, pattern, json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    return rounds


def measure(host, options):
    yield from head(options)
    found = []
    with warm_pages(host, PAGE, pages_of(options)):
        for qemu, rate, pattern in itertools.product(options.qemu, options.rates, options.patterns):
            rounds = play(host, options, qemu, rate, pattern)
            found.append({"qemu": qemu.version(), "rate": rate, "pattern": pattern, "rounds": rounds,
                          "ratios": ratios(rounds)})
            for way in rounds[0]:
                yield row(place(found[-1]), way, [each[way] for each in rounds])
            for names, values in found[-1]["ratios"].items():
                if any(values.values()):
                    yield ratio_row(place(found[-1]), names, values)
    yield from part_rows(found)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": machine(), "accel": options.accel, "memory_bytes": options.mem,
                       "vcpus": options.vcpus, "measured": found}, file, indent=1)


def more_options(parser):
    parser.add_argument("--qemu", nargs="+", type=lambda word: emulator.named(word, CACHE), metavar="QEMU",
                        default=[emulator.Emulator()],
                        help=f"programs, or of {', '.join(emulator.KINDS)} (fetched once by apt)")
    parser.add_argument("--accel", default=ACCEL, help="QEMU's; kvm where the host has it")
    parser.add_argument("--vcpus", type=int, default=2)
    parser.add_argument("--patterns", nargs="+", choices=list(PATTERNS), default=["random", "hot"],
                        help="in which order the guest goes over its pages; hot: nine visits of ten to a tenth of them")
    parser.add_argument("--rates", nargs="+", default=[LOOPBACK, "5gbit"],
                        help=f"of a link between two networks, as tc takes it, or {LOOPBACK}")
    parser.add_argument("--json", metavar="FILE", help="where every run is to be written")


if __name__ == "__main__":
    sys.exit(print_table(parse(__doc__, 5, "rounds", 1024, more_options), measure))
