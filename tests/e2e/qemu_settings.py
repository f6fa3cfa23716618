# SPDX-License-Identifier: Apache-2.0
"""What a program that is killed has changed in a QEMU is put back by who goes on for it."""
import os
import signal

from host import comes_true, err_of, wait_until
from messages import DEVICE_END, READY
from qemu import settings
from qemu_recovery import QemuMove
from qemu_vm import assert_one_guest, check_guest
from recovery_commit import let_go


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]



class KilledInSave(QemuMove):
    """`send` ends when it takes QEMU's connection: the bandwidth is lifted, capabilities are changed."""

    def __init__(self, host):
        super().__init__(host, rate=None, recover_timeout=1)
        self.before = settings(self.source)

    def traced_send(self):
        """Before the VM is stopped."""
        self.relay.stop_before = READY
        self.begin_with(lambda: None)
        wait_until(lambda: self.relay.held.is_set() or self.ended(), "the frame is on its way")
        tracer = self.host.start("strace", "-f", "-o", "/dev/null", "-p", self.giver.pid, "-e", "trace=accept4",
                                 "-e", "inject=accept4:signal=KILL")
        wait_until(lambda: "attached" in err_of(tracer), "strace traces it")

    def kill_in_save(self):
        self.relay.stop_before = None
        self.relay.open.set()
        assert self.giver.wait(30) == -signal.SIGKILL, err_of(self.giver)

    def is_as_it_was(self):
        wait_until(lambda: self.source.status() == "running", "it runs again")
        # Its migration may have to end first.
        assert comes_true(lambda: settings(self.source) == self.before, 10), (self.before, settings(self.source))
        self.source.wait_runs()
        assert_one_guest(self.source)


def a_guardian_puts_qemus_settings_back(host):
    move = KilledInSave(host)
    move.traced_send()
    move.kill_in_save()
    move.is_as_it_was()


def a_send_that_is_started_again_puts_qemus_settings_back(host):
    """Its guardian was killed with it."""
    move = KilledInSave(host)
    move.traced_send()
    guardian, = children(move.giver.pid)
    os.kill(guardian, signal.SIGSTOP)
    move.kill_in_save()
    os.kill(guardian, signal.SIGKILL)
    # A save that was broken off has QEMU run the VM again by itself; with all that was changed for it.
    wait_until(lambda: move.source.status() == "running", "QEMU has noticed")
    capabilities, parameters = settings(move.source)
    assert parameters["max-bandwidth"] == 0 != move.before[1]["max-bandwidth"]
    assert {"capability": "x-ignore-shared", "state": True} in capabilities
    move.start("send")
    move.is_as_it_was()


def a_receive_that_is_started_again_puts_qemus_settings_back(host):
    """Nothing was loaded when it was killed: the next one begins anew, and changes them anew."""
    move = QemuMove(host, rate=None, recover_timeout=1, placement="copy")  # touches no memory before pages come
    before = settings(move.destination)
    move.relay.stop_before = DEVICE_END
    move.begin_with(lambda: None)
    wait_until(lambda: move.relay.held.is_set() or move.ended(), "the frame is on its way")
    assert settings(move.destination) != before
    move.kill("receive")
    let_go(move)
    assert move.giver.wait(60) == 1, err_of(move.giver)
    move.start("receive")
    move.start("send")  # whose record has not heard of an end
    assert move.giver.wait(60) == 1, err_of(move.giver)
    move.start("send")
    move.complete()
    check_guest(move.source, move.destination)
    assert settings(move.destination) == before


CASES = [
    a_guardian_puts_qemus_settings_back,
    a_send_that_is_started_again_puts_qemus_settings_back,
    a_receive_that_is_started_again_puts_qemus_settings_back,
]
