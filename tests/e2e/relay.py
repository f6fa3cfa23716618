# SPDX-License-Identifier: Apache-2.0
"""A link that a test holds in its hands: slow, cut after so many bytes, cut now, shut."""
import contextlib
import os
import socket
import threading
import time

from host import LIMIT_S, listening_uri, send, wait_until
from messages import FRAME, FRAMES, RUN

HELLO_BYTES = 72
REPLY_BYTES = 40  # of an acceptance


def address_of(uri):
    """Family and address of a URI of hugeferry's."""
    scheme, rest = uri.split(":", 1)
    if scheme == "unix":
        return socket.AF_UNIX, rest
    host, port = rest.rsplit(":", 1)
    return socket.AF_INET, (host, int(port))


class Frames:
    """Follows one direction of a control channel."""

    def __init__(self, greeting_bytes):
        self.skip, self.head = greeting_bytes, b""

    def find(self, wanted, data):
        """Where in the data the header of such a frame begins."""
        place = 0
        while self.skip is not None:
            step = min(self.skip, len(data) - place)
            self.skip -= step
            place += step
            if place == len(data):
                return None
            more = data[place:place + FRAME.size - len(self.head)]
            self.head += more
            if len(self.head) < FRAME.size:
                return None
            kind, length = FRAME.unpack(self.head)
            if kind == wanted:
                self.skip = None
                return place
            place += len(more)
            self.head, self.skip = b"", length if kind in FRAMES else None
        return None


class Relay:
    """Listens at uri and passes bytes on to another address."""

    def __init__(self, uri, to, bytes_per_s=None):
        self.to, self.bytes_per_s = to, bytes_per_s
        self.lock = threading.Lock()
        self.stop_before = None  # a type of frame
        self.tap = None  # is called with whose bytes it reads, and these
        self.held, self.open = threading.Event(), threading.Event()
        self.page_bytes_left, self.pages_open = None, threading.Event()
        self.free_at, self.pairs, self.left_bytes, self.cuts, self.passed = 0.0, [], None, 0, 0
        family, address = address_of(uri)
        self.path = address if family == socket.AF_UNIX else None
        self.listener = socket.socket(family)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(address)
        self.listener.listen(64)
        self.uri = uri if self.path else "tcp:%s:%d" % self.listener.getsockname()
        threading.Thread(target=self.accept, daemon=True).start()

    def shut(self):
        """Nobody comes through until `to` is set again."""
        to, self.to = self.to, "unix:/nobody/is/there"
        self.cut()
        return to

    def accept(self):
        while True:
            try:
                near = self.listener.accept()[0]
            except OSError:
                return
            family, address = address_of(self.to)
            far = socket.socket(family)
            try:
                far.connect(address)
            except OSError:
                near.close()
                far.close()
                continue
            with self.lock:
                self.pairs.append((near, far))
            threading.Thread(target=self.serve, args=[near, far], daemon=True).start()

    def serve(self, near, far):
        hello = b""
        with contextlib.suppress(OSError):
            hello = near.recv(HELLO_BYTES, socket.MSG_PEEK | socket.MSG_WAITALL)
        control = len(hello) == HELLO_BYTES and not any(hello[48:52])
        for one, other, greeting in ((near, far, HELLO_BYTES), (far, near, REPLY_BYTES)):
            if one.family == socket.AF_INET:
                with contextlib.suppress(OSError):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            frames = Frames(greeting) if control else None
            threading.Thread(target=self.pump, args=[one, other, frames], daemon=True).start()

    def hold(self, one, other, data, frames):
        """What comes before the frame goes on; it and all behind it wait for `open`."""
        before = frames.find(self.stop_before, data)
        if before is None:
            return data
        other.sendall(data[:before])
        self.held.set()
        self.open.wait()
        return data[before:]

    def limit_pages(self, length):
        """No more bytes than these go over page channels until `pages_open` is set."""
        with self.lock:
            self.page_bytes_left = length

    def wait_for_pages(self, length):
        with self.lock:
            if self.page_bytes_left is None:
                return
            self.page_bytes_left -= length
            used_up = self.page_bytes_left < 0
        if used_up:
            self.pages_open.wait()

    def give_up_within(self, length):
        """The VM is given up, which `stop_before` has waited for: what has gone before measured the link."""
        assert self.held.wait(LIMIT_S), "the VM is not given up"
        self.limit_pages(length)
        self.open.set()

    def pump(self, one, other, frames):
        with contextlib.suppress(OSError):
            while data := one.recv(32 << 10):
                if self.tap:
                    self.tap(one, data)
                self.take_turn(len(data))
                if self.stop_before and frames:
                    data = self.hold(one, other, data, frames)
                if not frames:
                    self.wait_for_pages(len(data))
                if self.count(len(data)):
                    break
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def take_turn(self, length):
        if not self.bytes_per_s:
            return
        with self.lock:
            now = time.monotonic()
            self.free_at = max(self.free_at, now) + length / self.bytes_per_s
            wait = self.free_at - now
        time.sleep(wait)

    def count(self, length):
        """Says whether these bytes are never to arrive."""
        with self.lock:
            self.passed += length
            if self.left_bytes is None:
                return False
            self.left_bytes -= length
            if self.left_bytes > 0:
                return False
            self.left_bytes = None
        self.cut()
        return True

    def cut_after(self, length):
        with self.lock:
            self.left_bytes = length

    def waits_to_cut(self):
        return self.left_bytes is not None

    def cut(self):
        with self.lock:
            pairs, self.pairs = self.pairs, []
            self.cuts += 1
        for end in (end for pair in pairs for end in pair):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()
        self.open.set()
        self.pages_open.set()
        if self.path:
            os.unlink(self.path)


def hand_over_within(host, source, destination, taker, length, *options):
    """
    A move that is handed over and of which only so many bytes of pages come, so that it cannot end before a test
    has looked. Returns `send` and the relay, whose `pages_open` lets the rest come.
    """
    relay = Relay("tcp:127.0.0.1:0", listening_uri(taker))
    host.closing.append(relay.close)
    relay.stop_before = RUN
    giver = send(host, source, relay.uri, *options)
    relay.give_up_within(length)
    wait_until(lambda: destination.status() == "running", "the VM runs at the destination")
    return giver, relay
