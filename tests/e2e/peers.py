# SPDX-License-Identifier: Apache-2.0
"""The programs against an independent peer (tests/peer), in both roles: every byte compared, VMs relayed."""
import contextlib
import mmap
import signal
import struct

import messages as m
from destination import Destination
from host import (M, Vmm, assert_runs, err_of, finish, listening_uri, one_line, out_of, receive, send,
                  wait_until)
from link import Listener, accept_link, open_link
from source import Source

MEM = 32 * M
GUEST = ("--fill", 40)


def quiet(process, code=0):
    assert finish(process) == (code, ""), err_of(process)


def listen_uri(host, scheme):
    return f"unix:{host.name('link')}" if scheme == "unix" else "tcp:127.0.0.1:0"


@contextlib.contextmanager
def taking(host, source, *options, scheme="tcp", channels=None, features=0, **peer):
    """A peer that takes what a real `send` gives; yields both."""
    with contextlib.closing(Listener(listen_uri(host, scheme))) as listener:
        giver = send(host, source, listener.uri, *options)
        with contextlib.closing(Destination(accept_link(listener, channels, features=features), **peer)) as taker:
            taker.listener = listener
            yield giver, taker


@contextlib.contextmanager
def giving(host, destination, image, *options, scheme="tcp", answer=None, **hello):
    """A peer that gives its image to a real `receive`; yields both."""
    taker = receive(host, destination, *options, listen=listen_uri(host, scheme))
    with contextlib.closing(Source(open_link(listening_uri(taker), **hello), image, answer)) as giver:
        yield giver, taker


def capture(host, scheme="tcp", mem=MEM, guest=GUEST, compare=False, **peer):
    """Takes a running VM with the peer and ends what gave it."""
    source = Vmm(host, mem=mem, extra=guest)
    with taking(host, source, scheme=scheme, **peer) as (giver, taker):
        taker.up_to("fetched")
        if compare:
            compare_with_file(taker.image, source)
        taker.up_to("finished")
        quiet(giver)
    assert finish(source.process)[0] == -signal.SIGKILL
    return taker


def ram_of(vmm):
    with open(vmm.ram, "rb") as file:
        return mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)


def compare_with_file(image, vmm, from_page=0):
    """All of memory, holes too: reading a hole through the file gives zeros."""
    with ram_of(vmm) as ram:
        (_, length, page_size), present = image.blocks[0], image.present[0]
        assert len(ram) == length
        for page in range(from_page, length // page_size):
            mine = image.pages[0, page] if present[page] else bytes(page_size)
            assert ram[page * page_size:(page + 1) * page_size] == mine, f"page {page} differs"


def every_byte(scheme, name, **peer):
    def case(host):
        host.need(2 * M, 256 * M // (2 * M))
        taker = capture(host, scheme, 256 * M, ("--fill", 10), compare=True, **peer)
        present = taker.present[0]
        assert 0 < sum(present) < len(present), f"the guest was to have holes: {present}"
        assert taker.blocks == [(b"ram0", 256 * M, 2 * M)]
        assert taker.finish.sent_bytes <= sum(present) * 2 * M
    case.__name__ = f"an_independent_destination_gets_every_byte_over_{scheme}_{name}"
    return case


def any_range_of_a_page_can_be_asked_for(host):
    """Small ones, whole pages, overlapping ones, over both classes, also of pages that do not exist."""
    host.need(2 * M, 64)
    source = Vmm(host, mem=MEM, extra=GUEST)
    with taking(host, source) as (giver, taker):
        taker.up_to("running")
        with ram_of(source) as ram:
            for kind in (m.URGENT, m.BACKGROUND):
                for page in range(MEM // (2 * M)):
                    for at, length in ((0, 4096), (4096, 8192), (8192, 1 << 20), (2 * M - 4096, 4096), (0, 2 * M)):
                        offset = page * 2 * M + at
                        assert taker.fetch(kind, 0, offset, length) == ram[offset:offset + length]
        taker.to_complete()
        taker.to_finished()
        quiet(giver)


def relay(scheme, write_share, *options, features=0):
    """From a real source to the peer, from the peer to a real destination: the VM runs there, unharmed."""
    def case(host):
        host.need(2 * M, 64)
        image = capture(host, scheme, guest=(*GUEST, "--write-share", write_share), features=features).image
        destination = Vmm(host, incoming=True, mem=MEM)
        with giving(host, destination, image, *options, scheme=scheme, features=features) as (giver, taker):
            giver.up_to("finished")
            quiet(taker)
        assert giver.link.features == features
        assert_runs(destination)
        assert destination.errors() == 0
        if write_share == 0:
            with ram_of(destination) as ram:
                system_pages = struct.unpack_from("<16Q", ram, 0x1000)[9]
            compare_with_file(image, destination, system_pages)
    case.__name__ = "_".join(["a_relayed_vm_runs_on_over", scheme, "writing", str(write_share), *options[1:],
                              *(["measured"] if features else [])])
    return case


def the_order_of_replies_over_several_channels_does_not_matter(host):
    """The peer keeps each first request of a channel back until another channel has asked as well."""
    host.need(2 * M, 64)
    image = capture(host).image
    asked = set()

    def answer(request, reply):
        asked.add(request.kind)
        if request.kind == m.BACKGROUND:
            wait_until(lambda: m.URGENT in asked, "an urgent request overtakes the background")
        return reply

    destination = Vmm(host, incoming=True, mem=MEM)
    with giving(host, destination, image, answer=answer) as (giver, taker):
        giver.up_to("finished")
        quiet(taker)
    assert_runs(destination)


def state_in_small_pieces_is_put_together(host):
    host.need(2 * M, 64)
    image = capture(host).image
    destination = Vmm(host, incoming=True, mem=MEM)
    with giving(host, destination, image) as (giver, taker):
        giver.up_to("advised")
        giver.to_presence(pages_each=3)
        giver.to_device(bytes_each=1)
        giver.stage = "device"
        giver.up_to("finished")
        quiet(taker)
    assert_runs(destination)


def a_destination_that_falls_silent_gives_the_vm_back_in_time(host):
    """Nothing else limits how long the VM stands still: by default `send` as a whole has no time limit."""
    host.need(2 * M, 64)
    source = Vmm(host, mem=MEM, extra=GUEST)
    with taking(host, source, "--switchover-timeout", 2) as (giver, taker):
        taker.up_to("ready")
        code, said = finish(giver, 60)
    assert code == 3 and "stands still and has not been handed over within 2 s" in said, (code, said)
    assert "the source VM runs on" in said, said
    assert_runs(source)


def the_link_to_a_real_destination_can_be_checked(host):
    """Then its VMM is untouched, and the next source is served."""
    host.need(2 * M, 64)
    image = capture(host).image
    destination = Vmm(host, incoming=True, mem=MEM)
    taker = receive(host, destination)
    uri = listening_uri(taker)
    with contextlib.closing(Source(open_link(uri, features=m.FEATURE_LINK | m.FEATURE_CHECK), image)) as checker:
        checker.check()
        assert checker.see_out() is None
    assert destination.status() == "inmigrate"
    with contextlib.closing(Source(open_link(uri), image)) as giver:
        giver.up_to("finished")
    code, said = finish(taker)
    assert code == 0
    one_line(said, "the link was checked")
    assert_runs(destination)


def a_check_of_the_link_to_the_peer_works(host):
    with contextlib.closing(Listener("tcp:")) as listener:
        checker = host.start(host.hugeferry, "check", "--to", listener.uri)
        link = accept_link(listener, features=m.FEATURE_LINK | m.FEATURE_CHECK)
        with contextlib.closing(Destination(link)) as peer:
            peer.expect(m.CHECK)
            peer.probe()
            peer.link.send(m.make_link(rate_bytes_per_s=123 * 10**6))
            assert peer.see_out() is None
        finish(checker)
        assert "123.00 MB/s" in out_of(checker), out_of(checker)


CASES = [
    a_destination_that_falls_silent_gives_the_vm_back_in_time,
    every_byte("tcp", "in_small_chunks", chunk_bytes=1 << 16),
    every_byte("tcp", "over_one_channel_of_each_class", channels=(1, 1)),
    every_byte("unix", "in_whole_pages", chunk_bytes=1 << 26, placement=0),
    any_range_of_a_page_can_be_asked_for,
    relay("tcp", 0),
    relay("tcp", 50, "--placement", "copy"),
    relay("unix", 0, "--placement", "copy"),
    relay("unix", 50, features=m.FEATURE_LINK),
    relay("tcp", 50, features=m.FEATURE_LINK),
    the_link_to_a_real_destination_can_be_checked,
    a_check_of_the_link_to_the_peer_works,
    the_order_of_replies_over_several_channels_does_not_matter,
    state_in_small_pieces_is_put_together,
]
