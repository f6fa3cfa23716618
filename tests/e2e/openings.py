# SPDX-License-Identifier: Apache-2.0
"""Opening a link: programs of other releases, strangers, and peers that get it wrong on purpose."""
import contextlib
import os
import subprocess

import messages as m
from destination import Destination
from host import M, Vmm, assert_runs, err_of, finish, listening_uri, receive, send, wait_until
from hostile_sources import MEM, image_of
from link import (Closed, Listener, accept_control, accept_link, accept_page_channel, connect, open_channel,
                  open_control, open_link, open_page_channel, page_channels_of, page_hello)
from peers import quiet
from source import Source
from wrong import RUDE, check_said

UNKNOWN = 0xffffffff00000000  # feature bits nobody has defined
NEWER = {"versions": (1, 9), "features": UNKNOWN, "reserved": 2**64 - 1}


def waiting(host):
    host.need(2 * M, 32)
    image = image_of(host)
    vmm = Vmm(host, incoming=True, mem=MEM)
    return vmm, image, receive(host, vmm)


def give(link, image, taker, vmm):
    with contextlib.closing(Source(link, image)) as giver:
        giver.up_to("finished")
    assert finish(taker)[0] == 0, err_of(taker)
    assert_runs(vmm)


# ---- against receive ----

BAD_HELLOS = {
    "versions 2 to 3": ({"versions": (2, 3)}, m.VERSION), "versions 9 to 9": ({"versions": (9, 9)}, m.VERSION),
    "version 0": ({"versions": (0, 1)}, m.REFUSED), "versions 3 to 2": ({"versions": (3, 2)}, m.REFUSED),
    "no version": ({"versions": (0, 0)}, m.REFUSED), "magic": ({"magic": b"HUGEFERZ"}, m.REFUSED),
    "epoch 0": ({"epoch": 0}, m.REFUSED), "channel 3": ({"channel": 3, "wanted": (0, 0)}, m.REFUSED),
    "channel 2^32-1": ({"channel": 0xffffffff}, m.REFUSED), "control index 1": ({"index": 1}, m.REFUSED),
    "no urgent channel": ({"wanted": (0, 1)}, m.REFUSED), "no background channel": ({"wanted": (1, 0)}, m.REFUSED),
    "65 channels": ({"wanted": (65, 1)}, m.REFUSED), "2^32-1 channels": ({"wanted": (1, 0xffffffff)}, m.REFUSED),
    "a second link of nobody's session": ({"epoch": 2, "features": m.FEATURE_RECOVER}, m.SESSION),
    "page channel first": ({"channel": m.URGENT, "wanted": (0, 0)}, m.SESSION),
    "page channel that wants channels": ({"channel": m.URGENT}, m.REFUSED),
    "page channel 64": ({"channel": m.BACKGROUND, "index": 64, "wanted": (0, 0)}, m.REFUSED),
}


def refusals(taker):
    return err_of(taker).count("a peer was refused")


def receive_refuses_every_wrong_hello_and_serves_the_next_peer(host):
    vmm, image, taker = waiting(host)
    uri = listening_uri(taker)
    for number, (name, (fields, status)) in enumerate(BAD_HELLOS.items(), 1):
        channel, reply = open_channel(uri, m.make_hello(**{"wanted": (1, 1), **fields}))
        assert reply.status == status and reply.text, (name, reply)
        channel.wait_closed()
        wait_until(lambda: refusals(taker) == number, f"a line about: {name}")
    check_said(err_of(taker).splitlines()[0], "2 to 3", "1 to 1")
    for line in err_of(taker).splitlines():
        check_said(line)
    assert vmm.status() == "inmigrate"
    give(open_link(uri), image, taker, vmm)


def receive_names_both_ranges_of_versions_to_the_peer(host):
    _, _, taker = waiting(host)
    _, reply = open_channel(listening_uri(taker), m.make_hello(versions=(2, 3), wanted=(1, 1)))
    assert reply.status == m.VERSION and "2 to 3" in reply.text and "1 to 1" in reply.text, reply.text


def receive_speaks_with_a_newer_source(host):
    vmm, image, taker = waiting(host)
    link = open_link(listening_uri(taker), **NEWER)
    assert link.reply.version == 1 and link.reply.features == 0
    give(link, image, taker, vmm)


def receive_takes_only_what_it_knows_of_all_features(host):
    vmm, image, taker = waiting(host)
    link = open_link(listening_uri(taker), versions=(1, 9), features=UNKNOWN | m.FEATURE_LINK)
    assert link.reply.features == m.FEATURE_LINK
    give(link, image, taker, vmm)


def receive_lets_no_other_into_a_session(host):
    vmm, image, taker = waiting(host)
    link = open_control(listening_uri(taker), wanted=(2, 2))
    first, *others = page_channels_of(link)
    open_page_channel(link, *first)
    for name, hello, status in (
            ("control again", m.make_hello(**link.hello), m.BUSY),
            ("control of the next epoch", m.make_hello(**{**link.hello, "epoch": 2}), m.BUSY),
            ("another migration", m.make_hello(session=os.urandom(16), wanted=(1, 1)), m.BUSY),
            ("a channel twice", page_hello(link, *first), m.SESSION),
            ("more than granted", page_hello(link, m.URGENT, link.reply.channels[0]), m.SESSION),
            ("another session", page_hello(link, *others[0], session=os.urandom(16)), m.SESSION),
            ("another epoch", page_hello(link, *others[0], epoch=2), m.SESSION),
            ("other versions", page_hello(link, *others[0], versions=(1, 2)), m.SESSION),
            ("other features", page_hello(link, *others[0], features=m.FEATURE_LINK), m.SESSION)):
        channel, reply = open_channel(link.uri, hello)
        assert reply.status == status, (name, reply)
        channel.wait_closed()
    for key in others:
        open_page_channel(link, *key)
    give(link, image, taker, vmm)


def receive_is_not_held_up_by_strangers(host):
    """One is silent, one trickles, one says half a hello and goes, one opens a session and goes."""
    vmm, image, taker = waiting(host)
    uri = listening_uri(taker)
    silent, slow, half = connect(uri), connect(uri), connect(uri)
    half.send(m.make_hello()[:30])
    half.close()
    open_control(uri).close()
    slow.send(m.make_hello()[:1])
    link = wait_until(lambda: willing(uri), "the session that was left is forgotten")
    slow.send(m.make_hello()[1:2])
    for key in page_channels_of(link):
        open_page_channel(link, *key)
    give(link, image, taker, vmm)
    for channel in (silent, slow):
        channel.close()


def willing(uri):
    link = open_control(uri)
    if link.reply.status == m.ACCEPTED:
        return link
    link.close()
    return None


def receive_takes_a_hello_byte_by_byte(host):
    vmm, image, taker = waiting(host)
    uri = listening_uri(taker)
    fields = {"session": os.urandom(16), "wanted": (1, 1)}
    channel = connect(uri)
    for byte in m.make_hello(**fields):
        channel.send(bytes([byte]))
    reply = m.take_hello_reply(channel.read)
    assert reply.status == m.ACCEPTED and reply.channels == (1, 1)
    channel.close()
    give(wait_until(lambda: whole(uri), "the next peer is served"), image, taker, vmm)


def whole(uri):
    link = willing(uri)
    if link:
        for key in page_channels_of(link):
            open_page_channel(link, *key)
    return link


def receive_can_be_stopped_while_its_peer_is_silent(host):
    for stage in ("linked", "advised", "presence"):
        vmm, image, taker = waiting(host)
        with contextlib.closing(Source(open_link(listening_uri(taker)), image)) as giver:
            giver.up_to(stage)
            taker.terminate()
            code, said = finish(taker, 20)
            assert giver.see_out().kind == m.FAIL_CANCELLED
        assert code == 3, (code, said)
        check_said(said)
        assert vmm.status() == "inmigrate"
        host.end_processes()


# ---- against send ----

BAD_REPLIES = {  # (what is answered, what must be in the line)
    "another magic": (m.make_hello_reply(magic=b"HUGEFERZ", channels=(2, 2)), "Hugeferry"),
    "version 0": (m.make_hello_reply(version=0, channels=(2, 2)), "version 0"),
    "version 2": (m.make_hello_reply(version=2, channels=(2, 2)), "version 2"),
    "an unknown feature": (m.make_hello_reply(features=1 << 63, channels=(2, 2)), "0x8000000000000000"),
    "a feature not offered": (m.make_hello_reply(features=m.FEATURE_CHECK, channels=(2, 2)), "features 0x2"),
    "no urgent channel": (m.make_hello_reply(channels=(0, 2)), "urgent"),
    "no background channel": (m.make_hello_reply(channels=(2, 0)), "background"),
    "one urgent channel too many": (m.make_hello_reply(channels=(3, 2)), "3 urgent"),
    "2^32-1 channels": (m.make_hello_reply(channels=(0xffffffff, 2)), "4294967295"),
    "501 bytes of text": (m.make_hello_reply(m.REFUSED, text=b"x" * 501), "501"),
    "2^32-1 bytes of text": (m.make_hello_reply(m.REFUSED, text_bytes=0xffffffff), "4294967295"),
    "less text than said": (m.make_hello_reply(m.REFUSED, text=b"the rea", text_bytes=10), "the rea"),
    "half a reply": (m.make_hello_reply(channels=(2, 2))[:39], ""),
    "nothing": (b"", ""),
    "rude words": (m.make_hello_reply(m.REFUSED, text=RUDE), "owned"),
    "500 bytes of text": (m.make_hello_reply(m.REFUSED, text=b"y" * 500), "y" * 400),
    "no version in common": (m.make_hello_reply(m.VERSION, text=b"this side speaks 4 to 5, you 1 to 1"), "4 to 5"),
    "busy": (m.make_hello_reply(m.BUSY, text=b"busy"), "busy"),
    "an unknown status": (m.make_hello_reply(77, version=5, features=5, channels=(9, 9), text=b"so what"), "so what"),
}
BAD_PAGE_REPLIES = {
    "refused": (m.make_hello_reply(m.SESSION, text=b"no such session"), "no such session"),
    "version 2": (m.make_hello_reply(version=2), "version 2"),
    "an unknown feature": (m.make_hello_reply(features=1 << 63), "0x8000000000000000"),
    "another feature than before": (m.make_hello_reply(features=m.FEATURE_LINK), "features 0x1"),
    "channels": (m.make_hello_reply(channels=(1, 0)), "channels"),
    "another magic": (m.make_hello_reply(magic=b"HUGEFERZ"), "Hugeferry"),
    "nothing": (b"", ""),
}


def refused(giver, *words):
    code, said = finish(giver, 20)
    assert code == 1, (code, said)
    check_said(said, *words)


def send_refuses_every_wrong_reply_and_its_vm_runs_on(host):
    host.need(2 * M, 16)
    vmm = Vmm(host, mem=MEM, vcpus=1)
    with contextlib.closing(Listener("tcp:")) as listener:
        for raw, word in BAD_REPLIES.values():
            giver = send(host, vmm, listener.uri)
            channel, _ = listener.accept()
            channel.send(raw)
            channel.close()
            refused(giver, word)
        for raw, word in BAD_PAGE_REPLIES.values():
            giver = send(host, vmm, listener.uri)
            with contextlib.closing(accept_control(listener, (2, 2))) as link:
                channel, _ = listener.accept()
                channel.send(raw)
                channel.close()
                refused(giver, word)
                assert link.last_frames() is None
    assert_runs(vmm)


def send_gives_up_a_destination_that_is_silent_or_trickles(host):
    host.need(2 * M, 16)
    vmm = Vmm(host, mem=MEM, vcpus=1)
    accepted = m.make_hello_reply(channels=(2, 2))
    with contextlib.closing(Listener("tcp:")) as listener:
        for trickle in (b"", accepted):
            giver = send(host, vmm, listener.uri, "--timeout", 1)
            channel, _ = listener.accept()
            drip(giver, channel, trickle)
            refused(giver, "1000 ms")
            channel.close()
        giver = send(host, vmm, listener.uri, "--timeout", 1)
        with contextlib.closing(accept_control(listener, (2, 2))) as link:
            accept_page_channel(listener, link)
            refused(giver, "1000 ms")
    assert_runs(vmm)


def drip(giver, channel, raw):
    """A byte each tenth of a second, while anybody listens."""
    for byte in raw:
        with contextlib.suppress(Closed):
            channel.send(bytes([byte]))
        with contextlib.suppress(subprocess.TimeoutExpired):
            giver.wait(0.1)
            return


def send_speaks_with_a_newer_destination(host):
    """It takes part of what is offered, and what is reserved now has a meaning for it."""
    host.need(2 * M, 16)
    vmm = Vmm(host, mem=MEM)
    with contextlib.closing(Listener("tcp:")) as listener:
        giver = send(host, vmm, listener.uri)
        link = accept_link(listener, (1, 2), reserved=0xffffffff)
        assert link.hello.versions[0] == 1
        with contextlib.closing(Destination(link)) as taker:
            taker.reserved = 0xffffffff
            taker.up_to("finished")
        quiet(giver)


CASES = [
    receive_refuses_every_wrong_hello_and_serves_the_next_peer,
    receive_names_both_ranges_of_versions_to_the_peer,
    receive_speaks_with_a_newer_source,
    receive_takes_only_what_it_knows_of_all_features,
    receive_lets_no_other_into_a_session,
    receive_is_not_held_up_by_strangers,
    receive_takes_a_hello_byte_by_byte,
    receive_can_be_stopped_while_its_peer_is_silent,
    send_refuses_every_wrong_reply_and_its_vm_runs_on,
    send_gives_up_a_destination_that_is_silent_or_trickles,
    send_speaks_with_a_newer_destination,
]
