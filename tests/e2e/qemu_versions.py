# SPDX-License-Identifier: Apache-2.0
"""What is most of what moves QEMUs, with the QEMU of Debian's backports; and from the installed one to that one."""
import contextlib

import qemu
import qemu_bitmaps
import qemu_devices
import qemu_disk
import qemu_failures
import qemu_first
import qemu_network
import qemu_recovery
from host import M, finish, listening_uri, one_line, receive, send
from qemu_vm import USED, Qemu, check_guest, devices


@contextlib.contextmanager
def backports(host):
    host.qemu = "backports"
    try:
        yield
    finally:
        del host.qemu


def with_backports(case):
    def newer(host):
        with backports(host):
            case(host)
    newer.__name__ = f"backports_qemu_{case.__name__}"
    return newer


def a_guest_moves_to_a_newer_qemu(host):
    """As when hosts are upgraded: with a type of machine that both know."""
    host.need(2 * M, qemu.PAGES)
    extra = devices(host)
    source = Qemu(host, machine="pc-q35-7.2", extra=extra, words=USED)
    with backports(host):
        destination = Qemu(host, incoming=True, machine="pc-q35-7.2", extra=extra, words=USED)
    qemu.move(host, source, destination)
    check_guest(source, destination)


def a_qemu_that_knows_how_stays_and_says_why_it_cannot_load(host):
    with backports(host):
        host.need(2 * M, qemu.PAGES)
        source = Qemu(host, extra=("-device", "virtio-rng-pci"))
        destination = Qemu(host, incoming=True)
        taker = receive(host, destination)
        giver = send(host, source, listening_uri(taker))
        for process in (giver, taker):
            code, said = finish(process)
            assert code == 1
            one_line(said, "says failed about its device state: load of migration failed")


CASES = [with_backports(case) for case in (
    qemu.moved("tcp", "continue"),
    qemu.moved("unix", "copy"),
    qemu.rounds_while_the_guest_writes_lose_nothing,
    qemu.machine("q35", "copy", blocks=(128, 128)),
    qemu.another_machine_refuses_the_state_and_the_source_runs_on,
    qemu.memory_that_was_preallocated_at_the_destination_is_refused,
    qemu_recovery.a_link_that_is_cut_is_found_again,
    qemu_recovery.killed("continue"),
    qemu_recovery.both_killed_while_qemus_main_loop_waits_for_a_page,
    qemu_first.pages_of_rings_are_asked_for_before_qemu_loads,
    qemu_failures.fails(qemu_failures.its_qemu_is_killed),
    qemu_bitmaps.bitmaps_arrive_and_go_on,
    qemu_devices.refused(qemu_devices.virtio_mem),
    qemu_devices.refused(qemu_devices.vhost_user),
    qemu_devices.a_qemu_that_cannot_be_migrated_says_why_while_it_runs,
    qemu_devices.a_qemu_with_mem_lock_on_is_refused_as_destination,
    qemu_devices.nobody_plugs_in_a_device_while_qemu_migrates,
    qemu_disk.read_past_the_page_cache("native", "continue"),
    qemu_network.the_destination_announces_the_guest_when_it_runs_there,
)] + [a_guest_moves_to_a_newer_qemu, a_qemu_that_knows_how_stays_and_says_why_it_cannot_load]
