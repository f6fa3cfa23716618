# SPDX-License-Identifier: Apache-2.0
"""Unmodified QEMUs whose memory Hugeferry moves."""
import json
import signal

from host import M, finish, listening_uri, one_line, receive, send
from qemu_vm import Qemu, assert_one_guest, check_guest

PAGES = 2 * 128 + 96  # of two VMs, and what `copy` stages


def pair(host, pages=PAGES, **options):
    host.need(2 * M, pages)
    return Qemu(host, **options), Qemu(host, incoming=True, **options)


def move(host, source, destination, *options, listen="tcp:127.0.0.1:0", send_options=()):
    """Moves the VM; returns the destination's report."""
    path = host.name("json")
    taker = receive(host, destination, "--json", path, *options, listen=listen)
    giver = send(host, source, listening_uri(taker), *send_options)
    codes = [finish(giver), finish(taker)]
    assert [code for code, _ in codes] == [0, 0], codes
    assert source.process.wait(10) == -signal.SIGKILL
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def moved(scheme, placement):
    def case(host):
        source, destination = pair(host)
        listen = "tcp:127.0.0.1:0" if scheme == "tcp" else f"unix:{host.name('link')}"
        report = move(host, source, destination, "--placement", placement, listen=listen)
        assert report["placement"] == placement and report["pages_received"] == report["pages_total"] == 128
        assert report["faults"]["vcpu"] == sum(vcpu["faults"] for vcpu in report["blocktime"]["vcpus"])
        check_guest(source, destination)
    case.__name__ = f"a_guest_lives_on_over_{scheme}_by_{placement}"
    return case


def rounds_while_the_guest_writes_lose_nothing(host):
    source, destination = pair(host)
    report = move(host, source, destination, send_options=("--precopy", "--attach", source.attach))
    assert report["precopy_rounds"] > 0 and report["precopy_bytes"] > 0, report
    check_guest(source, destination)


def a_guest_moves_there_and_back_again(host):
    """Each time to a QEMU of its own, as between hosts."""
    host.need(2 * M, 3 * 128 + 96)
    vms = [Qemu(host)]
    for _ in range(2):
        vms.append(Qemu(host, incoming=True))
        move(host, vms[-2], vms[-1])
        vms[-1].wait_runs()
    text = "".join(vm.said() for vm in vms)
    assert "wrong 0 end" in text and not [line for line in text.splitlines()[:-1]
                                          if line.startswith("beat") and "wrong 0 end" not in line]


def machine(name, **options):
    def case(host):
        source, destination = pair(host, machine=name, **options)
        move(host, source, destination)
        check_guest(source, destination)
    case.__name__ = f"machine_{name.split(',')[0]}_with_{len(options.get('blocks', '1'))}_backends_moves"
    return case


class Nobody:
    """A destination that has never run."""

    @staticmethod
    def said():
        return ""


def another_machine_refuses_the_state_and_the_source_runs_on(host):
    """What QEMU says of it in its log, where that is a file, is told on both sides; 7.2 ends then."""
    host.need(2 * M, PAGES)
    source = Qemu(host, extra=("-device", "virtio-rng-pci"))
    destination = Qemu(host, incoming=True)
    taker = receive(host, destination)
    giver = send(host, source, listening_uri(taker))
    for process in (giver, taker):
        code, said = finish(process)
        assert code == 1
        one_line(said, destination.qmp_path, "Unknown savevm section", "virtio-rng")
    source.wait_runs()
    assert source.status() == "running"
    assert_one_guest(source, Nobody)


def memory_that_was_preallocated_at_the_destination_is_refused(host):
    host.need(2 * M, PAGES)
    source, destination = Qemu(host), Qemu(host, incoming=True, options=",prealloc=on")
    taker = receive(host, destination)
    giver = send(host, source, listening_uri(taker))
    for process in (giver, taker):
        code, said = finish(process)
        assert code == 1
        one_line(said, "ram0", "prealloc=off")
    assert source.status() == "running"
    source.wait_runs()
    assert_one_guest(source, Nobody)


def private_memory_is_refused(host):
    host.need(2 * M, 128 + 96)
    destination = Qemu(host, incoming=True, options=",share=off")
    code, said = finish(receive(host, destination))
    assert code == 1
    one_line(said, destination.attach, "share=on")


def a_program_that_is_not_there_is_named(host):
    process = host.start(host.hugeferry, "exec", "--attach", host.name("attach"), "--", "/no/such/vmm")
    code, said = finish(process)
    assert code == 1
    one_line(said, "/no/such/vmm")


CASES = [
    moved("tcp", "continue"),
    moved("tcp", "copy"),
    moved("unix", "continue"),
    moved("unix", "copy"),
    rounds_while_the_guest_writes_lose_nothing,
    a_guest_moves_there_and_back_again,
    machine("pc"),
    machine("q35", blocks=(128, 128)),
    another_machine_refuses_the_state_and_the_source_runs_on,
    memory_that_was_preallocated_at_the_destination_is_refused,
    private_memory_is_refused,
    a_program_that_is_not_there_is_named,
]
