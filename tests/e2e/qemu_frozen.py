# SPDX-License-Identifier: Apache-2.0
"""A `receive` that is killed when its QEMU has loaded a guest, and started again before the guest may run.

QEMU is frozen all that time, and another client's `cont` lies in its socket.
"""
import contextlib
import ctypes
import errno
import json
import os
import struct

from host import M, err_of, wait_until
from messages import LOADED, RUN
from qemu_failures import OneMove, let_go, says
from qemu_recovery import PAGES, QemuMove
from qemu_vm import Qemu

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
ALLOW, FAIL_WITH = 0x7fff0000, 0x00050000
PIDFD_GETFD = 438  # on every architecture


def without_pidfd_getfd():
    """As on a kernel that has none, or under a filter that lets nobody use it."""
    def step(code, if_true, if_false, value):
        return struct.pack("=HBBI", code, if_true, if_false, value)
    steps = (step(0x20, 0, 0, 0) + step(0x15, 0, 1, PIDFD_GETFD) +  # the call's number: is it this one?
             step(0x06, 0, 0, FAIL_WITH | errno.ENOSYS) + step(0x06, 0, 0, ALLOW))
    buffer = ctypes.create_string_buffer(steps)
    program = struct.pack("@HP", 4, ctypes.addressof(buffer))
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(program), 0, 0):
        raise OSError(ctypes.get_errno(), "no filter of system calls")


def steps_of(vm):
    """How often its threads were let go by a processor: a process that takes no step does not count on."""
    folder, count = f"/proc/{vm.process.pid}/task", 0
    for thread in os.listdir(folder):
        with open(f"{folder}/{thread}/status", encoding="utf-8") as file:
            count += sum(int(line.split()[1]) for line in file if "ctxt_switches" in line)
    return count


def has_memory(process):
    """It reads faults, which is the last that is done when memory is taken over."""
    folder, names = f"/proc/{process.pid}/task", []
    for thread in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError), open(f"{folder}/{thread}/comm", encoding="utf-8") as file:
            names.append(file.read().strip())
    return "hf-faults" in names


def heard(client):
    """What QEMU has told so far."""
    said = b""
    with contextlib.suppress(BlockingIOError, ConnectionResetError):
        while data := client.recv(1 << 16):
            said += data
    return [json.loads(line) for line in said.splitlines()]


def start_given_up(host):
    """The source has given the guest up, and its RUN does not arrive."""
    move = QemuMove(host, rate=None, recover_timeout=30)
    move.relay.stop_before = RUN
    move.begin_with(lambda: None)
    wait_until(lambda: move.relay.held.is_set() or move.ended(), "the guest is given up")
    assert move.relay.held.is_set(), [err_of(process) for process in move.programs.values()]
    return move


def start_again(move):
    """Twice, so that it also takes over from one that was never known to the library. Its RUN is held too."""
    for _ in range(2):
        move.kill("receive")
        move.relay.held.clear()
        move.relay.cut()
        move.start("receive")
        wait_until(lambda: has_memory(move.taker) and move.relay.held.is_set() or move.ended(), "it is told to run")
        assert move.relay.held.is_set(), [err_of(process) for process in move.programs.values()]


def a_receive_started_again_thaws_nothing_before_it_is_told_to_run(host):
    move = start_given_up(host)
    with says(move.destination, "cont") as client:
        client.setblocking(False)
        assert move.destination.is_frozen()
        before = steps_of(move.destination)
        start_again(move)
        assert move.destination.is_frozen() and steps_of(move.destination) == before
        assert not heard(client) and not move.destination.said()
        move.relay.stop_before = None
        move.relay.open.set()
        wait_until(lambda: all(process.poll() is not None for process in move.programs.values()), "all of it has come")
        told = heard(client)
    move.complete()
    assert [line["event"] for line in told if line.get("event") in ("RESUME", "STOP")] == ["RESUME"], told
    assert "thawed" not in err_of(move.taker), err_of(move.taker)


def nor_does_one_that_hears_that_the_guest_stays_at_the_source(host):
    host.need(2 * M, PAGES)
    move = OneMove(host, Qemu(host), LOADED)
    move.hold()
    with says(move.destination, "cont") as client:
        client.setblocking(False)
        move.kill("receive")
        let_go(move)
        move.start("receive")
        move.stays()
        assert not heard(client) and not move.destination.said()
    assert "thawed" not in err_of(move.taker), err_of(move.taker)


def one_that_has_to_thaw_it_says_so_and_the_guest_stays_at_the_source(host):
    host.need(2 * M, PAGES)
    move = OneMove(host, Qemu(host), LOADED)
    move.hold()
    with says(move.destination, "cont"):
        move.kill("receive")
        let_go(move)
        move.start("receive", before_exec=without_pidfd_getfd)
        move.stays()
    assert "is thawed for a moment" in err_of(move.taker), err_of(move.taker)


CASES = [
    a_receive_started_again_thaws_nothing_before_it_is_told_to_run,
    nor_does_one_that_hears_that_the_guest_stays_at_the_source,
    one_that_has_to_thaw_it_says_so_and_the_guest_stays_at_the_source,
]
