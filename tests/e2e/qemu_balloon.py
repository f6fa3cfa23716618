# SPDX-License-Identifier: Apache-2.0
"""Memory that a guest gives up and takes back while its pages are on their way.

QEMU does not know that it is in postcopy: pages that the guest reports as free it punches out of the RAM file, those
that have come and those that have not. (Those of a balloon it does not: Linux names at most a MiB of them at once, and
QEMU forgets what it has of a huge page in between.)
"""
import os

from host import M, wait_until
from qemu import move
from qemu_vm import Qemu, check_guest
from recovering import Move

MEM = 512  # Linux sets up to 128 MiB aside while it reports them
PAGES = MEM + 96
DEVICE = ("-device", "virtio-balloon-pci,free-page-reporting=on")


def pair(host):
    host.need(2 * M, PAGES)
    return [Qemu(host, incoming=incoming, blocks=(MEM,), extra=DEVICE, words=("churn",)) for incoming in (False, True)]


class BalloonMove(Move):
    def make_vms(self, host, mem):
        return pair(host)

    def check_guest(self):
        check_guest(self.source, self.destination)


def wait_discards(vm):
    """Pages come, so that the file grows; it shrinks only by what QEMU punches out of it."""
    most = 0

    def look():
        nonlocal most
        pages = os.stat(vm.ram).st_blocks * 512 // (2 * M)
        most = max(most, pages)
        return pages < most
    wait_until(look, "QEMU has punched pages out", 60)


def given_up(placement):
    def case(host):
        move_ = BalloonMove(host, placement=placement, send_options=("--no-background",))
        move_.begin_held()
        move_.destination.execute("cont")
        wait_discards(move_.destination)
        move_.let_run()
        move_.complete()
    case.__name__ = f"pages_given_up_on_their_way_by_{placement}_are_no_loss"
    return case


def rounds_while_a_guest_gives_pages_up_lose_nothing(host):
    source, destination = pair(host)
    wait_discards(source)
    report = move(host, source, destination, send_options=("--precopy", "--attach", source.attach))
    assert report["precopy_rounds"] > 0 and report["pages_zero"] > 0, report
    check_guest(source, destination)


CASES = [
    given_up("continue"),
    given_up("copy"),
    rounds_while_a_guest_gives_pages_up_lose_nothing,
]
