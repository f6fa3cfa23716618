# SPDX-License-Identifier: Apache-2.0
"""The network learns from the destination's QEMU where the guest is now: when it is there, and not before."""
import socket

from host import M, wait_until
from messages import LOADED
from qemu_recovery import PAGES, QemuMove
from qemu_vm import Qemu

MAC = "52:54:00:12:34:56"
REVERSE_ARP, TYPE_AT = b"\x80\x35", 12


class Network:
    """What a network card sends comes here, a frame a datagram."""

    def __init__(self, host):
        self.path, self.card = host.name("network"), host.name("card")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(self.path)
        host.closing.append(self.socket.close)

    def options(self):
        return ("-netdev", f"dgram,id=net,local.type=unix,local.path={self.card},remote.type=unix,"
                           f"remote.path={self.path}", "-device", f"virtio-net-pci,netdev=net,romfile=,mac={MAC}")

    def frame(self):
        """The next one that has come; None if there is none."""
        try:
            return self.socket.recv(65536)
        except BlockingIOError:
            return None


class Announced(QemuMove):
    def make_vms(self, host, mem):
        host.need(2 * M, PAGES)
        self.networks = Network(host), Network(host)
        return (Qemu(host, extra=self.networks[0].options()),
                Qemu(host, incoming=True, extra=self.networks[1].options()))


def the_destination_announces_the_guest_when_it_runs_there(host):
    move = Announced(host)
    move.relay.stop_before = LOADED
    move.begin_with(lambda: None)
    wait_until(lambda: move.relay.held.is_set() or move.ended(), "the guest is loaded")
    assert [network.frame() for network in move.networks] == [None, None]
    move.relay.open.set()
    frame = wait_until(move.networks[1].frame, "the guest is announced")
    address = bytes.fromhex(MAC.replace(":", ""))
    assert frame[6:TYPE_AT] == address and frame[TYPE_AT:TYPE_AT + 2] == REVERSE_ARP, frame
    move.complete()
    assert move.networks[0].frame() is None


CASES = [the_destination_announces_the_guest_when_it_runs_there]
