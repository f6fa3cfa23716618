# SPDX-License-Identifier: Apache-2.0
"""--release-ram: the source's huge pages come back while the migration runs, and no byte is lost by it."""
import json
import os
import signal

import messages as m
from host import M, Vmm, assert_runs, assert_whole, err_of, finish, listening_uri, receive, send, wait_until
from link import Closed
from peers import GUEST, MEM, giving, quiet, ram_of, taking
from relay import hand_over_within

BOTH = m.FEATURE_RECOVER | m.FEATURE_RELEASE
RELEASE = "--release-ram"


def held(vmm):
    """Huge pages that the VMM's RAM file holds."""
    return os.stat(vmm.ram).st_blocks * 512 // vmm.page_size


def two_vmms(host, mem=256 * M):
    host.need(2 * M, 512)
    return Vmm(host, mem=mem), Vmm(host, incoming=True, mem=mem)


def report_of(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def start_held(host, source, destination, *extra):
    """
    A move that has been handed over and lives on faults alone. Of its 128 pages so many come, until the relay lets
    more pass, that the destination says of some that they are placed: it gathers up to 64.
    """
    taker = receive(host, destination, "--no-background", *host.state_options("receive", 60))
    giver, relay = hand_over_within(host, source, destination, taker, 96 * 2 * M,
                                    *host.state_options("send", 60), *extra)
    return taker, giver, relay


def pages_come_back_while_the_migration_runs(host):
    source, destination = two_vmms(host)
    before, free, path = held(source), host.available(2 * M), host.name("json")
    taker, giver, relay = start_held(host, source, destination, RELEASE, "--json", path)
    wait_until(lambda: held(source) < before, "pages that faults have fetched are given back")
    assert giver.poll() is None and taker.poll() is None, "the migration is over"
    wait_until(lambda: host.available(2 * M) > free - 128, "the host has them")
    taker.send_signal(signal.SIGUSR1)
    relay.pages_open.set()
    quiet(giver)
    quiet(taker)
    report = report_of(path)
    assert 0 < report["released_pages"] <= report["pages_present"], report
    assert report["released_bytes"] == report["released_pages"] * 2 * M
    assert_runs(destination)
    assert_whole(host, destination)


def without_the_option_no_page_goes_before_the_end(host):
    source, destination = two_vmms(host)
    before, path = held(source), host.name("json")
    taker, giver, relay = start_held(host, source, destination, "--json", path, "--keep")
    assert held(source) >= before
    taker.send_signal(signal.SIGUSR1)
    relay.pages_open.set()
    quiet(giver)
    quiet(taker)
    assert held(source) >= before
    assert report_of(path)["released_pages"] == 0
    assert_whole(host, destination)


def with_killed_agents(host, placement):
    """Either side is killed in the middle and started again with the same arguments."""
    source, destination = two_vmms(host)
    before = held(source)
    taker, giver, relay = start_held(host, source, destination, RELEASE, "--placement", placement)
    uri = listening_uri(taker)
    wait_until(lambda: held(source) < before, "pages are given back")
    taker.kill()
    giver.kill()
    taker.wait()
    giver.wait()
    left = held(source)
    relay.pages_open.set()
    taker = receive(host, destination, *host.state_options("receive", 60), listen=uri)
    wait_until(lambda: listening_uri(taker), "receive listens again")
    giver = send(host, source, relay.uri, *host.state_options("send", 60), RELEASE, "--placement", placement)
    assert finish(giver)[0] == 0, err_of(giver)
    assert finish(taker)[0] == 0, err_of(taker)
    assert left < before
    assert_runs(destination)
    assert_whole(host, destination)


def killed_agents_of_both_sides_go_on_continue(host):
    with_killed_agents(host, "continue")


def killed_agents_of_both_sides_go_on_copy(host):
    with_killed_agents(host, "copy")


def a_sender_started_again_without_the_option_gives_no_more_back(host):
    source, destination = two_vmms(host)
    before = held(source)
    taker, giver, relay = start_held(host, source, destination, RELEASE)
    wait_until(lambda: held(source) < before, "pages are given back")
    giver.kill()
    giver.wait()
    left = held(source)
    relay.pages_open.set()
    giver = send(host, source, relay.uri, *host.state_options("send", 60), "--keep")
    taker.send_signal(signal.SIGUSR1)
    assert finish(giver)[0] == 0, err_of(giver)
    assert finish(taker)[0] == 0, err_of(taker)
    assert held(source) == left
    assert_whole(host, destination)


def the_peer_gets_every_byte_and_gives_pages_back(host):
    """Fetched by an independent destination, which says PLACED page by page."""
    host.need(2 * M, 64)
    source = Vmm(host, mem=MEM, extra=GUEST)
    with taking(host, source, RELEASE, "--keep", features=BOTH) as (giver, taker):
        taker.up_to("fetched")
        with ram_of(source) as ram:
            before = bytes(ram)
        for page, there in enumerate(taker.present[0]):
            if there:
                assert taker.image.pages[0, page] == before[page * 2 * M:(page + 1) * 2 * M]
        held_before = held(source)
        taker.link.send(m.make_placed((0, 0, len(taker.present[0]))))
        wait_until(lambda: held(source) <= held_before - sum(taker.present[0]), "every page is given back")
        taker.up_to("finished")
        quiet(giver)


def the_peer_hears_placed_and_is_never_asked_again(host):
    host.need(2 * M, 64)
    source = Vmm(host, mem=MEM, extra=GUEST)
    with taking(host, source) as (giver, taker):
        image = taker.up_to("finished").image
        quiet(giver)
    destination = Vmm(host, incoming=True, mem=MEM)
    with giving(host, destination, image, features=BOTH) as (giver, taker):
        giver.up_to("finished")
        quiet(taker)
    assert giver.placed, "nothing was said"
    assert_runs(destination)


def a_released_page_is_refused_and_never_zeros(host):
    host.need(2 * M, 64)
    source = Vmm(host, mem=MEM, vcpus=1)
    with taking(host, source, RELEASE, "--recover-timeout", 60, features=BOTH) as (giver, taker):
        taker.up_to("running")
        taker.link.send(m.make_placed((0, 1, 1)))
        before = held(source)
        wait_until(lambda: held(source) < before or held(source) < MEM // (2 * M), "the page is given back")
        _, raw = taker.request(0, 2 * M, 4096)
        channel = taker.link.of_class(m.URGENT)[0]
        channel.send(raw)
        try:
            raise AssertionError(f"a page that was given back is answered: {channel.read(m.PAGE.size)}")
        except Closed:
            giver.kill()


CASES = [
    pages_come_back_while_the_migration_runs,
    without_the_option_no_page_goes_before_the_end,
    killed_agents_of_both_sides_go_on_continue,
    killed_agents_of_both_sides_go_on_copy,
    a_sender_started_again_without_the_option_gives_no_more_back,
    the_peer_gets_every_byte_and_gives_pages_back,
    the_peer_hears_placed_and_is_never_asked_again,
    a_released_page_is_refused_and_never_zeros,
]
