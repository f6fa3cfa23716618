# SPDX-License-Identifier: Apache-2.0
"""Links that are cut and programs that are killed while a QEMU moves: the guest goes on, and no byte of it is lost."""
import json
import socket

from host import M, wait_until, waits_for_page
from qemu_vm import Qemu, check_guest
from recovering import Move, kill_at_random, rest

KILLS = 4
PAGES = 2 * 128 + 96


class QemuMove(Move):
    def make_vms(self, host, mem):
        host.need(2 * M, PAGES)
        return Qemu(host), Qemu(host, incoming=True)

    def check_guest(self):
        check_guest(self.source, self.destination)


def a_link_that_is_cut_is_found_again(host):
    move = QemuMove(host).hand_over()
    for _ in range(3):
        move.relay.cut()
        rest(0.2)
    move.complete()


def killed(placement):
    def case(host):
        kill_at_random(QemuMove(host, placement=placement).hand_over(), KILLS)
    case.__name__ = f"programs_killed_while_a_qemu_moves_by_{placement}_lose_nothing"
    return case


def both_killed_while_qemus_main_loop_waits_for_a_page(host):
    """QEMU answers nothing then, not even a greeting, until the new receive has brought the page."""
    move = QemuMove(host, send_options=("--no-background",))
    move.begin_held()
    for which in ("send", "receive"):
        move.kill(which)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(move.destination.monitor)
        for line in ({"execute": "qmp_capabilities"},
                     {"execute": "pmemsave", "arguments": {"val": 0, "size": 256 * M, "filename": "/dev/null"}}):
            client.sendall((json.dumps(line) + "\n").encode())
        pid = move.destination.process.pid
        wait_until(lambda: waits_for_page(pid, pid), "QEMU's main loop waits for a page")
        move.start("receive")
        move.start("send")
        wait_until(lambda: not waits_for_page(pid, pid) or move.ended(), "the page has come")
    move.complete()


CASES = [
    a_link_that_is_cut_is_found_again,
    killed("continue"),
    killed("copy"),
    both_killed_while_qemus_main_loop_waits_for_a_page,
]
