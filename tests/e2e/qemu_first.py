# SPDX-License-Identifier: Apache-2.0
"""Pages that QEMU will touch when it loads its devices are asked for before it does."""
import json
import signal

import messages as m
from host import M, finish, listening_uri, receive, send, wait_until
from qemu_vm import USED, Qemu, check_guest, devices
from relay import HELLO_BYTES, REPLY_BYTES, Relay

PAGES = 2 * 128 + 96
KEPT_BYTES = 1 << 20  # of each direction of a channel; neither FIRST nor requests come later


class Streams:
    """What each side has said on each channel."""

    def __init__(self):
        self.said = {}

    def tap(self, one, data):
        said = self.said.setdefault(one, bytearray())
        said += data[:KEPT_BYTES - len(said)]

    def first(self):
        """The pages that FIRST names."""
        for said in map(bytes, list(self.said.values())):
            place = HELLO_BYTES
            while len(said) >= place + m.FRAME.size:
                kind, length = m.FRAME.unpack_from(said, place)
                place += m.FRAME.size
                if kind == m.FIRST and len(said) >= place + length:
                    return m.take_first(said[place:place + length])
                if kind not in m.FRAMES:
                    break
                place += length
        return []

    def asked_for(self):
        """{(block, page): bytes} of all requests for pages."""
        found = {}
        for said in map(bytes, list(self.said.values())):
            for place in range(REPLY_BYTES, len(said) - m.PAGE.size + 1, m.PAGE.size):
                marker, block, _, offset, length, _ = m.PAGE.unpack_from(said, place)
                if marker != m.REQUEST:
                    break
                if block != m.PROBE_BLOCK:
                    key = block, offset // (2 * M)
                    found[key] = found.get(key, 0) + length
        return found


def report_of(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def pages_of_rings_are_asked_for_before_qemu_loads(host):
    """The destination's QEMU is stopped, so that nothing of it can wait for a page."""
    host.need(2 * M, PAGES)
    extra, streams = devices(host), Streams()
    source, destination = Qemu(host, extra=extra, words=USED), Qemu(host, incoming=True, extra=extra, words=USED)
    reports = host.name("json"), host.name("json")
    taker = receive(host, destination, "--json", reports[1], "--no-background")
    relay = Relay("tcp:127.0.0.1:0", listening_uri(taker))
    host.closing.append(relay.close)
    relay.tap, relay.stop_before = streams.tap, m.DEVICE_END
    giver = send(host, source, relay.uri, "--json", reports[0])
    assert wait_until(lambda: relay.held.is_set() or giver.poll() is not None, "the state is on its way")
    destination.process.send_signal(signal.SIGSTOP)
    relay.open.set()
    named = wait_until(streams.first, "the source names pages")
    assert len(named) == len(set(named)) > 1, named
    whole = {page: 2 * M for page in named}
    wait_until(lambda: streams.asked_for() == whole, "they are asked for, and no others")
    destination.process.send_signal(signal.SIGCONT)
    wait_until(lambda: destination.status() == "running", "the guest runs")
    taker.send_signal(signal.SIGUSR1)
    codes = [finish(giver), finish(taker)]
    assert [code for code, _ in codes] == [0, 0], codes
    check_guest(source, destination)
    gave, took = map(report_of, reports)
    assert gave["pages_first"] == took["pages_first"] == took["pages_asked_first"] == len(named), (gave, took)


CASES = [pages_of_rings_are_asked_for_before_qemu_loads]
