# SPDX-License-Identifier: Apache-2.0
"""Channels, and opening them from either side, as PROTOCOL.md says under "Opening a channel"."""
import os
import socket

import messages as m
from messages import must

LIMIT_S = 10


class Closed(Exception):
    """The other side has closed the channel."""


class Channel:
    def __init__(self, sock):
        self.socket = sock
        sock.settimeout(LIMIT_S)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data):
        try:
            self.socket.sendall(data)
        except ConnectionError as error:
            raise Closed from error

    def read(self, count):
        parts = []
        while count:
            try:
                part = self.socket.recv(min(count, 1 << 20))
            except ConnectionError as error:
                raise Closed from error
            if not part:
                raise Closed
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def wait_closed(self):
        """Reads what still comes, until the other side closes."""
        try:
            while self.socket.recv(1 << 20):
                pass
        except ConnectionError:
            pass

    def shut(self):
        """Ends both directions; also a thread that reads here sees it."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self):
        self.shut()
        self.socket.close()


class Link:
    """All channels of one session; `role` is this side's."""

    def __init__(self, role, control):
        self.role, self.control = role, control
        self.pages = {}  # (class, index): channel
        self.hello = self.reply = None
        self.features = 0

    def of_class(self, kind):
        return [self.pages[key] for key in sorted(self.pages) if key[0] == kind]

    def channels(self):
        return [self.control, *self.pages.values()]

    def send(self, frame):
        self.control.send(frame)

    def frame(self):
        other = m.FROM_DESTINATION if self.role == m.FROM_SOURCE else m.FROM_SOURCE
        kind, payload = m.take_frame(self.control.read, other)
        must(kind != m.VM_REFUSED or self.features & m.FEATURE_RECOVER, "REFUSED without the feature")
        must(kind != m.PLACED or self.features & m.FEATURE_RELEASE, "PLACED without the feature")
        must(kind != m.FIRST or self.features & m.FEATURE_FIRST, "FIRST without the feature")
        must(kind not in (m.ROUND, m.ROUND_END, m.ROUND_DONE) or self.features & m.FEATURE_PRECOPY,
             f"message {kind} without the feature")
        return kind, payload

    def expect(self, kind):
        """The payload of the next frame, which must be of this type."""
        found, payload = self.frame()
        if found == m.FAIL and kind != m.FAIL:
            raise m.Violation(f"the peer failed: {m.take_fail(payload).text}")
        must(found == kind, f"frame type {found} came, not {kind}")
        return payload

    def last_frames(self):
        """Reads until the other side closes; returns the FAIL it said last, or None."""
        fail = None
        try:
            while True:
                kind, payload = self.frame()
                must(fail is None, f"frame type {kind} follows FAIL")
                fail = m.take_fail(payload) if kind == m.FAIL else None
        except Closed:
            return fail

    def shut(self):
        for channel in self.channels():
            channel.shut()

    def close(self):
        for channel in self.channels():
            channel.close()


# ---- the side that connects ----


def connect(uri):
    scheme, place = uri.split(":", 1)
    if scheme == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(place)
        return Channel(sock)
    name, port = place.rsplit(":", 1)
    return Channel(socket.create_connection((name.strip("[]"), int(port)), LIMIT_S))


def open_channel(uri, hello):
    """Sends the HELLO; returns the channel and the HELLO_REPLY."""
    channel = connect(uri)
    channel.send(hello)
    return channel, m.take_hello_reply(channel.read)


def open_control(uri, wanted=(2, 2), **changes):
    """Returns a link whose control channel is accepted, and no other is open."""
    fields = {"session": os.urandom(16), "wanted": wanted, **changes}
    channel, reply = open_channel(uri, m.make_hello(**fields))
    link = Link(m.FROM_SOURCE, channel)
    link.uri, link.hello, link.reply = uri, fields, reply
    if reply.status == m.ACCEPTED:
        link.features = reply.features
        low, high = fields.get("versions", (1, 1))
        must(low <= reply.version <= high, f"version {reply.version} was not offered")
        must(reply.features & ~fields.get("features", 0) == 0, f"features {reply.features:#x} were not offered")
        must(reply.features & m.FEATURE_RECOVER or fields.get("epoch", 1) == 1, "what is there cannot continue")
        must(not (reply.features & m.FEATURE_RECOVER and reply.features & m.FEATURE_CHECK), "CHECK and RECOVER")
        must(not (reply.features & m.FEATURE_PRECOPY and reply.features & m.FEATURE_CHECK), "CHECK and PRECOPY")
        must(not (reply.features & m.FEATURE_FIRST and reply.features & m.FEATURE_CHECK), "CHECK and FIRST")
        must(not reply.features & m.FEATURE_RELEASE or reply.features & m.FEATURE_RECOVER, "RELEASE alone")
        for got, most in zip(reply.channels, wanted):
            must(1 <= got <= most, f"{got} channels are granted of {most} wanted")
    return link


def page_hello(link, kind, index, **changes):
    return m.make_hello(**{**link.hello, "wanted": (0, 0), "channel": kind, "index": index, **changes})


def open_page_channel(link, kind, index, **changes):
    channel, reply = open_channel(link.uri, page_hello(link, kind, index, **changes))
    must(reply.status == m.ACCEPTED, f"a page channel is refused: {reply.text}")
    must(reply.channels == (0, 0), f"a page channel is answered with {reply.channels} channels")
    must((reply.version, reply.features) == (link.reply.version, link.reply.features), "a page channel differs")
    link.pages[kind, index] = channel


def page_channels_of(link):
    return [(kind, index) for kind, count in zip((m.URGENT, m.BACKGROUND), link.reply.channels)
            for index in range(count)]


def open_link(uri, **hello):
    link = open_control(uri, **hello)
    must(link.reply.status == m.ACCEPTED, f"refused: {link.reply.text}")
    for kind, index in page_channels_of(link):
        open_page_channel(link, kind, index)
    return link


# ---- the side that listens ----


class Listener:
    def __init__(self, uri):
        scheme, place = uri.split(":", 1)
        self.socket = socket.socket(socket.AF_UNIX if scheme == "unix" else socket.AF_INET)
        self.socket.settimeout(LIMIT_S)
        self.socket.bind(place if scheme == "unix" else ("127.0.0.1", 0))
        self.socket.listen(2 * m.CHANNELS_MAX)
        self.uri = uri if scheme == "unix" else f"tcp:127.0.0.1:{self.socket.getsockname()[1]}"

    def accept_raw(self):
        return Channel(self.socket.accept()[0])

    def accept(self):
        channel = self.accept_raw()
        return channel, m.take_hello(channel.read(m.HELLO.size))

    def close(self):
        self.socket.close()


def accept_control(listener, channels=None, after=None, **reply):
    """Answers the control channel; grants what is wanted unless told otherwise. `after` is the link before."""
    channel, hello = listener.accept()
    must(hello.channel == m.CONTROL, "the first channel is not the control channel")
    if after:
        must(hello.session == after.hello.session, "another session")
        must(hello.epoch > after.hello.epoch, f"epoch {hello.epoch} follows {after.hello.epoch}")
        must(hello.features & m.FEATURE_RECOVER, "a session is continued without RECOVER")
    else:
        must(hello.epoch == 1, f"the first connection has epoch {hello.epoch}")
    link = Link(m.FROM_DESTINATION, channel)
    link.hello, link.granted, link.features = hello, channels or hello.wanted, reply.get("features", 0)
    channel.send(m.make_hello_reply(channels=link.granted, **reply))
    return link


def accept_page_channel(listener, link, **reply):
    channel, hello = listener.accept()
    must(hello.channel != m.CONTROL, "a second control channel")
    must((hello.session, hello.epoch) == (link.hello.session, link.hello.epoch), "a channel of another session")
    must((hello.versions, hello.features) == (link.hello.versions, link.hello.features),
         "a page channel offers other things than its control channel")
    key = hello.channel, hello.index
    must(hello.index == len(link.of_class(hello.channel)), f"channel {key} comes out of order")
    must(hello.index < link.granted[hello.channel - 1], f"channel {key} was not granted")
    link.pages[key] = channel
    channel.send(m.make_hello_reply(**reply))


def accept_link(listener, channels=None, after=None, **reply):
    link = accept_control(listener, channels, after, **reply)
    for _ in range(sum(link.granted)):
        accept_page_channel(listener, link, **reply)
    return link
