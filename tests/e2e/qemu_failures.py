# SPDX-License-Identifier: Apache-2.0
"""What fails before the hand-over, at each of its steps, while a QEMU moves: its guest runs on where it was.

The steps are held open by a relay that lets all but one frame through. One source lives through all of a case's steps.
"""
import json
import os
import signal
import socket

from host import M, err_of, finish, wait_until
from messages import DEVICE_END, LOADED, READY
from qemu_recovery import PAGES, QemuMove
from qemu_vm import Qemu, assert_one_guest
from recovery_commit import let_go

STEPS = (READY, DEVICE_END, LOADED)


class OneMove(QemuMove):
    """Of a source that lives already."""

    def __init__(self, host, source, frame):
        self.living, self.frame = source, frame
        # Who has not said LOADED is not waiting: a source that looks for it looks in vain.
        super().__init__(host, rate=None, recover_timeout=1 if frame == DEVICE_END else 30)

    def make_vms(self, host, mem):
        return self.living, Qemu(host, incoming=True)

    def hold(self):
        self.relay.stop_before = self.frame
        self.begin_with(lambda: None)
        wait_until(lambda: self.relay.held.is_set() or self.ended(), "the frame is on its way")
        assert self.relay.held.is_set(), [err_of(process) for process in self.programs.values()]
        assert (self.source.status() == "running") == (self.frame == READY)

    def stays(self):
        """Every program that was not killed says why; the destination's VM has not run."""
        codes = {which: finish(process, 60)[0] for which, process in self.programs.items()}
        assert set(codes.values()) <= {1, -signal.SIGKILL}, [err_of(process) for process in self.programs.values()]
        self.source.wait_runs()
        assert self.source.status() == "running"
        assert_one_guest(self.source)
        assert self.destination.status() in (("ended",) if self.frame == LOADED else ("ended", "inmigrate"))
        if self.frame == LOADED:  # before, a source may not know that nobody is left whom it has to tell
            self.assert_nothing_left()
        self.host.end_process(self.destination.process)
        os.unlink(self.destination.ram)


def the_link_is_cut(move):
    let_go(move)


def its_qemu_is_killed(move):
    move.destination.process.kill()
    move.destination.process.wait(10)
    move.relay.open.set()


def receive_is_killed(move):
    """One that has said LOADED has promised to wait; started again it hears that it need not."""
    move.kill("receive")
    let_go(move)
    if move.frame == LOADED:
        move.start("receive")


def send_is_killed(move):
    move.kill("send")
    wait_until(lambda: move.source.status() == "running", "the guardian runs it again", 5)
    if move.frame == LOADED:
        assert move.taker.poll() is None
    let_go(move)
    if move.frame == DEVICE_END:
        finish(move.taker, 60)
    if move.frame != READY:
        move.start("send")


def fails(failure):
    def case(host):
        host.need(2 * M, PAGES)
        source = Qemu(host)
        for frame in STEPS:
            move = OneMove(host, source, frame)
            move.hold()
            failure(move)
            move.stays()
    case.__name__ = f"a_guest_runs_on_at_the_source_when_{failure.__name__}"
    return case


def says(vm, *commands):
    """Another client gives commands and does not wait: who reads them may be frozen."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(vm.monitor)
    for command in ("qmp_capabilities", *commands):
        client.sendall((json.dumps({"execute": command}) + "\n").encode())
    return client


def nobody_else_runs_a_guest_that_has_been_loaded(host):
    """Between LOADED and RUN a `cont` at the destination is not done; after RUN it does no harm."""
    host.need(2 * M, PAGES)
    source = Qemu(host)
    for the_link_holds in (False, True):
        move = OneMove(host, source, LOADED)
        move.hold()
        assert move.destination.is_frozen()
        with says(move.destination, "cont"):
            if the_link_holds:
                move.relay.stop_before = None
                move.relay.open.set()
                wait_until(lambda: not move.destination.is_frozen(), "it is told to run")
            else:
                let_go(move)
                move.stays()
                assert not move.destination.said()
    move.complete()


CASES = [fails(failure) for failure in (the_link_is_cut, its_qemu_is_killed, receive_is_killed, send_is_killed)] + [
    nobody_else_runs_a_guest_that_has_been_loaded,
]
