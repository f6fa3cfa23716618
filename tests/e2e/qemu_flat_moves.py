# SPDX-License-Identifier: Apache-2.0
"""Unmodified QEMUs whose guest is known byte by byte: what waits for a page are vCPUs, in KVM_RUN where there is KVM."""
import json
import os
import signal

from host import M, assert_runs, assert_whole, finish, listening_uri, out_of, receive, send
from qemu import ended
from qemu_flat import FlatQemu, assert_one_guest
from recovering import Move, kill_at_random

MEM = 256 * M
PAGES = 2 * (MEM // (2 * M)) + 96  # of two VMs, and what `copy` stages
KILLS = 4


def pair(host):
    host.need(2 * M, PAGES)
    return FlatQemu(host, mem=MEM), FlatQemu(host, incoming=True, mem=MEM)


def check_guest(host, source, destination):
    assert_runs(destination)
    destination.wait_beats(1)
    assert destination.errors() == 0, "the guest has found wrong words"
    assert_whole(host, destination)
    assert_one_guest(source, destination)


def moved(placement):
    """The background waits until each vCPU has run for some time, so that each has needed pages that were missing."""
    def case(host):
        source, destination = pair(host)
        path = host.name("json")
        taker = receive(host, destination, "--json", path, "--placement", placement, "--no-background")
        giver = send(host, source, listening_uri(taker))
        destination.wait_beats(2)
        taker.send_signal(signal.SIGUSR1)
        report = ended(source, giver, taker, path)
        assert report["placement"] == placement and report["pages_received"] == report["pages_total"]
        vcpus = report["blocktime"]["vcpus"]
        assert len(vcpus) == 2 and all(vcpu["faults"] > 0 and vcpu["blocktime_ns"] > 0 for vcpu in vcpus), vcpus
        assert report["faults"]["vcpu"] == sum(vcpu["faults"] for vcpu in vcpus), report["faults"]
        check_guest(host, source, destination)
    case.__name__ = f"vcpus_of_a_qemu_with_a_known_guest_fault_by_{placement}"
    return case


def rounds_see_what_vcpus_of_a_qemu_with_a_known_guest_write(host):
    source, destination = pair(host)
    path = host.name("json")
    taker = receive(host, destination, "--json", path)
    giver = send(host, source, listening_uri(taker), "--precopy", "--attach", source.attach)
    report = ended(source, giver, taker, path)
    assert report["precopy_rounds"] > 0 and report["precopy_bytes"] > 0, report
    check_guest(host, source, destination)


class FlatMove(Move):
    def make_vms(self, host, mem):
        return pair(host)

    def check_guest(self):
        check_guest(self.host, self.source, self.destination)


def killed(placement):
    def case(host):
        kill_at_random(FlatMove(host, placement=placement).hand_over(), KILLS)
    case.__name__ = f"programs_killed_while_a_qemu_with_a_known_guest_moves_by_{placement}_lose_nothing"
    return case


def check_measured(measured):
    assert (measured["rate"], measured["pattern"]) == ("loopback", "random")
    ways, = measured["rounds"]
    loops = "a bare loop", "a bare loop beside the guest"
    assert sorted(ways) == ["Hugeferry", "QEMU", "QEMU, preempt", *loops], ways
    assert min(ways.pop(loop)["total_ms"] for loop in loops) > 0
    for figures in ways.values():
        assert all(figures[key] > 0 for key in ("total_ms", "downtime_ms", "longest_ms")), figures
        assert all(figures[key] >= 0 for key in ("overlapped_ms", "worst_ms", "stalled_ms")), figures
        assert len(figures["vcpus_ms"]) == 2 and max(figures["vcpus_ms"]) == figures["worst_ms"], figures
    assert set(measured["ratios"]) == {"Hugeferry / QEMU", "Hugeferry / QEMU, preempt",
                                       *(f"{loop} / QEMU, preempt" for loop in loops)}, measured["ratios"]
    assert min(ways["Hugeferry"]["parts_ms"].values()) >= 0, ways


def the_comparison_with_qemus_own_postcopy_measures_all_it_tells(host):
    """perf/compare_qemu.py with a tiny guest and both QEMUs; of its times nothing is expected but that they are there."""
    path = host.name("json")
    command = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../perf/compare_qemu.py")
    process = host.start(command, host.build, "--mem", 32, "--runs", 1, "--rates", "loopback", "--patterns", "random",
                         "--qemu", "installed", "backports", "--json", path)
    code, said = finish(process)
    assert code == 0, said
    with open(path, encoding="utf-8") as file:
        told = json.load(file)
    assert told["memory_bytes"] == 32 * M and told["vcpus"] == 2, told
    assert len({measured["qemu"] for measured in told["measured"]}) == 2, told
    for measured in told["measured"]:
        check_measured(measured)
    lines = [line for line in out_of(process).splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + 2 * (5 + 4) + 1 + 2 and len({line.count("|") for line in lines[:19]}) == 1, lines


CASES = [
    moved("continue"),
    moved("copy"),
    rounds_see_what_vcpus_of_a_qemu_with_a_known_guest_write,
    killed("continue"),
    killed("copy"),
    the_comparison_with_qemus_own_postcopy_measures_all_it_tells,
]
