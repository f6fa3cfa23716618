# SPDX-License-Identifier: Apache-2.0
"""Unmodified QEMUs under KVM: what waits for a page are vCPUs in KVM_RUN."""
import json
import os
import random
import signal

from host import M, assert_runs, assert_whole, finish, listening_uri, receive, send
from qemu_flat import FlatQemu, assert_one_guest
from recovering import Move, rest

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


def complete(source, giver, taker, path):
    codes = [finish(giver), finish(taker)]
    assert [code for code, _ in codes] == [0, 0], codes
    assert source.process.wait(10) == -signal.SIGKILL
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def moved(placement):
    """The background waits until each vCPU has run for some time, so that each has needed pages that were missing."""
    def case(host):
        source, destination = pair(host)
        path = host.name("json")
        taker = receive(host, destination, "--json", path, "--placement", placement, "--no-background")
        giver = send(host, source, listening_uri(taker))
        destination.wait_beats(2)
        taker.send_signal(signal.SIGUSR1)
        report = complete(source, giver, taker, path)
        assert report["placement"] == placement and report["pages_received"] == report["pages_total"]
        vcpus = report["blocktime"]["vcpus"]
        assert len(vcpus) == 2 and all(vcpu["faults"] > 0 and vcpu["blocktime_ns"] > 0 for vcpu in vcpus), vcpus
        assert report["faults"]["vcpu"] == sum(vcpu["faults"] for vcpu in vcpus), report["faults"]
        check_guest(host, source, destination)
    case.__name__ = f"vcpus_of_a_qemu_under_kvm_fault_by_{placement}"
    return case


def rounds_see_what_vcpus_of_a_qemu_under_kvm_write(host):
    source, destination = pair(host)
    path = host.name("json")
    taker = receive(host, destination, "--json", path)
    giver = send(host, source, listening_uri(taker), "--precopy", "--attach", source.attach)
    report = complete(source, giver, taker, path)
    assert report["precopy_rounds"] > 0 and report["precopy_bytes"] > 0, report
    check_guest(host, source, destination)


class KvmMove(Move):
    def make_vms(self, host, mem):
        return pair(host)

    def check_guest(self):
        check_guest(self.host, self.source, self.destination)


def killed(placement):
    def case(host):
        seed = int(os.environ.get("HF_E2E_SEED", random.randrange(1 << 32)))
        print(f"# seed {seed}", flush=True)
        chance = random.Random(seed)
        move = KvmMove(host, placement=placement).hand_over()
        for _ in range(KILLS):
            rest(chance.uniform(0, 0.4))
            which = chance.choice(("send", "receive"))
            move.kill(which)
            rest(chance.uniform(0, 0.15))
            move.start(which)
        move.complete()
    case.__name__ = f"programs_killed_while_a_qemu_under_kvm_moves_by_{placement}_lose_nothing"
    return case


CASES = [
    moved("continue"),
    moved("copy"),
    rounds_see_what_vcpus_of_a_qemu_under_kvm_write,
    killed("continue"),
    killed("copy"),
]
