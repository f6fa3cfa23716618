# SPDX-License-Identifier: Apache-2.0
"""Unmodified QEMUs whose memory Hugeferry moves."""
import json
import os
import signal

from host import M, finish, listening_uri, one_line, receive, send
from qemu_vm import USED, Qemu, assert_one_guest, check_guest, devices

PAGES = 2 * 128 + 96  # of two VMs, and what `copy` stages


def pair(host, pages=PAGES, **options):
    host.need(2 * M, pages)
    return Qemu(host, **options), Qemu(host, incoming=True, **options)


def ended(source, giver, taker, path):
    """All is well, and the source is gone; returns the destination's report."""
    codes = [finish(giver), finish(taker)]
    assert [code for code, _ in codes] == [0, 0], codes
    assert source.process.wait(10) == -signal.SIGKILL
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def move(host, source, destination, *options, listen="tcp:127.0.0.1:0", send_options=()):
    """Moves the VM; returns the destination's report."""
    path = host.name("json")
    taker = receive(host, destination, "--json", path, *options, listen=listen)
    giver = send(host, source, listening_uri(taker), *send_options)
    return ended(source, giver, taker, path)


def settings(vm):
    """What a migration of somebody else's would go by."""
    return vm.execute("query-migrate-capabilities"), vm.execute("query-migrate-parameters")


def moved(scheme, placement):
    def case(host):
        source, destination = pair(host)
        listen = "tcp:127.0.0.1:0" if scheme == "tcp" else f"unix:{host.name('link')}"
        before = settings(destination)
        report = move(host, source, destination, "--placement", placement, listen=listen)
        assert report["placement"] == placement and report["pages_received"] == report["pages_total"] == 128
        assert report["faults"]["vcpu"] == sum(vcpu["faults"] for vcpu in report["blocktime"]["vcpus"])
        check_guest(source, destination)
        assert settings(destination) == before
    case.__name__ = f"a_guest_lives_on_over_{scheme}_by_{placement}"
    return case


def rounds_while_the_guest_writes_lose_nothing(host):
    source, destination = pair(host)
    report = move(host, source, destination, send_options=("--precopy", "--attach", source.attach))
    assert report["precopy_rounds"] > 0 and report["precopy_bytes"] > 0, report
    check_guest(source, destination)


def a_guest_moves_ten_times_there_and_back_again(host):
    """Each time to a QEMU of its own, as between hosts; in all ways, one after the other."""
    host.need(2 * M, PAGES)
    extra = devices(host)
    vms = [Qemu(host, extra=extra, words=USED)]
    for number in range(10):
        vms.append(Qemu(host, incoming=True, extra=extra, words=USED))
        rounds = ("--precopy", "--attach", vms[-2].attach) if number % 4 == 2 else ()
        move(host, vms[-2], vms[-1], "--placement", ("continue", "copy")[number % 2], send_options=rounds,
             listen="tcp:127.0.0.1:0" if number % 3 < 2 else f"unix:{host.name('link')}")
        os.unlink(vms[-2].ram)
        vms[-1].wait_runs()
    assert vms[-1].status() == "running"
    assert_one_guest(*vms)


def machine(name, placement, blocks):
    """With all devices, and its memory on both sides of the gap below 4 GiB."""
    def case(host):
        extra = devices(host)
        source, destination = pair(host, machine=f"{name},max-ram-below-4g=128M", blocks=blocks, extra=extra, words=USED)
        assert len(source.passes()) == 4, "two vCPUs, the disk and random numbers are checked"
        move(host, source, destination, "--placement", placement)
        check_guest(source, destination)
    case.__name__ = f"machine_{name}_with_all_devices_and_{len(blocks)}_backends_moves_by_{placement}"
    return case


def another_machine_refuses_the_state_and_the_source_runs_on(host):
    """What QEMU says of it in its log, where that is a file, is told on both sides; 7.2 ends then."""
    host.need(2 * M, PAGES)
    source = Qemu(host, extra=("-device", "virtio-rng-pci"))
    destination = Qemu(host, incoming=True)
    before = settings(source)
    taker = receive(host, destination)
    giver = send(host, source, listening_uri(taker))
    for process in (giver, taker):
        code, said = finish(process)
        assert code == 1
        one_line(said, destination.qmp_path, "Unknown savevm section", "virtio-rng")
    source.wait_runs()
    assert source.status() == "running"
    assert_one_guest(source)
    assert settings(source) == before


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
    assert_one_guest(source)


def qemus_whose_sockets_a_manager_has_made_are_found(host):
    """What is frozen and killed is QEMU, not the manager."""
    source, destination = pair(host, managed=True)
    move(host, source, destination, send_options=("--precopy", "--attach", source.attach))
    check_guest(source, destination)


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
    a_guest_moves_ten_times_there_and_back_again,
    machine("pc", "copy", blocks=(256,)),
    machine("q35", "continue", blocks=(96, 160)),
    another_machine_refuses_the_state_and_the_source_runs_on,
    memory_that_was_preallocated_at_the_destination_is_refused,
    qemus_whose_sockets_a_manager_has_made_are_found,
    private_memory_is_refused,
    a_program_that_is_not_there_is_named,
]
