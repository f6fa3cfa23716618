# SPDX-License-Identifier: Apache-2.0
"""Rounds of pre-copy against the independent peer, in both roles; every byte is compared."""
import json
import struct
import threading

import messages as m
from control import Control
from host import LIMIT_S, M, Vmm, assert_runs, err_of, finish, one_line, send, wait_until
from link import accept_link
from peers import GUEST, MEM, capture, compare_with_file, giving, quiet, ram_of, taking
from precopy import FAST, IDLE, SLOW
from release import BOTH, RELEASE, held

PRECOPY = m.FEATURE_PRECOPY
PAGE = 2 * M


# ---- the peer takes ----


def precopy_options(source, *options):
    return ["--precopy", "--attach", source.attach, *options]


def moved(name, guest, *options, scheme="tcp"):
    """The peer moves round after round, the rest while the VM stands still or after that, as it is told."""
    def case(host):
        host.need(PAGE, 64)
        source, path = Vmm(host, mem=MEM, extra=(*GUEST, *guest)), host.name("json")
        with taking(host, source, *precopy_options(source, *options), "--json", path, scheme=scheme,
                    features=PRECOPY) as (giver, taker):
            taker.up_to("final")
            moves = taker.rounds_done
            whole = taker.round.whole
            taker.up_to("loaded")
            if whole:
                assert len(taker.image.pages) == sum(taker.present[0]), "LOADED was said without all pages"
            taker.up_to("fetched")
            compare_with_file(taker.image, source)
            taker.up_to("finished")
            quiet(giver)
        with open(path, encoding="utf-8") as file:
            said = json.load(file)["precopy"]
        assert said["rounds"] == len(moves) >= 1, said
        assert said["moved_bytes"] == sum(done.moved_bytes for done in moves), said
        assert whole or "--precopy-only" not in options
    case.__name__ = f"an_independent_destination_gets_every_byte_in_rounds_{name}"
    return case


def a_destination_of_its_own_cuts_a_round_when_it_is_told_to(host):
    """Half of the first set has come; the rest of it comes after the VM has moved."""
    host.need(PAGE, 64)
    source, qmp = Vmm(host, mem=MEM, extra=(*GUEST, *SLOW)), host.name("qmp")
    with taking(host, source, *precopy_options(source), "--qmp", f"unix:{qmp}", features=PRECOPY) as (giver, taker):
        taker.up_to("in_round")
        half = sorted(taker.named)[::2]
        taker.move_pages(half)
        assert Control(qmp).execute("migrate-start-postcopy") == {}
        assert taker.take_change().cut
        taker.say_round_done()
        taker.take_set()
        taker.stage = "final"
        assert taker.round.final and not taker.round.whole, taker.round
        assert set(half) - taker.named == taker.moved.keys()
        taker.up_to("fetched")
        compare_with_file(taker.image, source)
        taker.up_to("finished")
        quiet(giver)


def a_destination_of_its_own_hears_limits(host):
    host.need(PAGE, 64)
    source, qmp = Vmm(host, mem=MEM, extra=(*GUEST, *IDLE)), host.name("qmp")
    with taking(host, source, *precopy_options(source, "--max-bandwidth", "8M"), "--qmp", f"unix:{qmp}",
                features=PRECOPY) as (giver, taker):
        taker.up_to("in_round")
        assert taker.round.limit_bytes_per_s == 8 * M, taker.round
        assert Control(qmp).execute("migrate-set-parameters", **{"max-bandwidth": 16 * M}) == {}
        change = taker.take_change()
        assert change.limit_bytes_per_s == 16 * M and not change.cut, change
        taker.up_to("fetched")
        compare_with_file(taker.image, source)
        taker.up_to("finished")
        quiet(giver)


def a_destination_that_knows_no_rounds_is_refused(host):
    host.need(PAGE, 64)
    source = Vmm(host, mem=MEM, extra=GUEST)
    with taking(host, source, *precopy_options(source)) as (giver, taker):
        taker.up_to("advised")
        taker.say_ready()
        assert "knows no pre-copy" in taker.see_out().text
        code, said = finish(giver)
    assert code == 1, (code, said)
    one_line(said, "knows no pre-copy", "the source VM runs on")
    assert_runs(source)


def pages_of_rounds_are_given_back_once_the_vm_is_elsewhere(host):
    """The tracking of writes has ended then; also a sender that is started again gives back and serves the rest."""
    host.need(PAGE, 64)
    source = Vmm(host, mem=MEM, extra=(*GUEST, *IDLE))
    options = precopy_options(source, RELEASE, "--keep", *host.state_options("send", 60))
    with taking(host, source, *options, features=PRECOPY | BOTH) as (giver, taker):
        taker.up_to("loaded")
        taker.fetch_all()
        compare_with_file(taker.image, source)
        pages = sum(taker.present[0])
        assert held(source) == pages
        taker.up_to("running")
        there = sorted(taker.image.pages)
        taker.link.send(m.make_placed(*((block, page, 1) for block, page in there[:2])))
        wait_until(lambda: held(source) == pages - 2, "the first two pages are given back")
        giver.kill()
        giver.wait()
        taker.link.close()
        send(host, source, taker.listener.uri, *options)
        assert taker.recover(accept_link(taker.listener, after=taker.link, features=BOTH)) is None
        taker.up_to("running")
        block, page = there[2]
        assert taker.fetch(m.URGENT, block, page * PAGE, PAGE) == taker.image.pages[block, page]
        taker.link.send(m.make_placed((0, 0, len(taker.present[0]))))
        wait_until(lambda: held(source) == 0, "every page is given back")
        taker.up_to("finished")


# ---- the peer gives ----


def capture_with_holes(host, scheme):
    """What the guest has only read is zeros, and exists only since it was read."""
    image = capture(host, scheme, guest=(*GUEST, *IDLE)).image
    for (block, page), data in list(image.pages.items()):
        if data == bytes(PAGE):
            del image.pages[block, page]
            image.present[block][page] = 0
    return image


def stage(image):
    """Pages of the image for what happens to them, and memory as it is before the first round."""
    final = dict(image.pages)
    there = sorted(final)
    holes = [(0, page) for page, present in enumerate(image.present[0]) if not present]
    pages = m.Record(final=final, written=there[-1], late=there[-2], unnamed=there[-3], born=there[-4],
                     punched=holes[0], punched_late=holes[1])
    for number, page in enumerate((pages.written, pages.late, pages.punched, pages.punched_late), 1):
        image.pages[page] = bytes([number]) * PAGE
    del image.pages[pages.born]
    return pages


def asked(giver, number):
    """Pages that were asked for in this round; 0: from DEVICE_END on."""
    return {(request.block, request.offset // PAGE) for request in giver.requests if request.round == number}


def unharmed(destination, image):
    assert_runs(destination)
    assert destination.errors() == 0
    with ram_of(destination) as ram:
        system_pages = struct.unpack_from("<16Q", ram, 0x1000)[9]
    compare_with_file(image, destination, system_pages)


def relayed(whole, scheme):
    """Pages are written, come to exist and are punched out between two sets; each byte is right at the end."""
    def case(host):
        host.need(PAGE, 64)
        image = capture_with_holes(host, scheme)
        destination = Vmm(host, incoming=True, mem=MEM)
        with giving(host, destination, image, scheme=scheme, features=PRECOPY) as (giver, taker):
            pages, memory = stage(image), image.pages
            giver.up_to("advised")
            first = {*pages.final, pages.punched, pages.punched_late} - {pages.unnamed}
            giver.begin_round(first)
            assert giver.end_round().moved_bytes <= len(first) * PAGE
            memory[pages.written] = pages.final[pages.written]
            del memory[pages.punched]
            second = {pages.written, pages.punched}
            giver.begin_round(second)
            giver.end_round()
            giver.change_round(flags=m.ROUND_CUT)  # it has crossed ROUND_DONE
            memory[pages.late], memory[pages.born] = pages.final[pages.late], pages.final[pages.born]
            del memory[pages.punched_late]
            giver.say_final({pages.late, pages.born, pages.punched_late}, m.ROUND_WHOLE if whole else 0)
            giver.stage = "final"
            giver.up_to("loaded")
            rest = {pages.late, pages.born, pages.unnamed}
            if whole:
                assert asked(giver, 0) == rest, "LOADED was said without all pages"
            giver.up_to("finished")
            quiet(taker)
        assert memory == pages.final
        assert asked(giver, 1) == first and asked(giver, 2) == second
        assert asked(giver, 0) == rest, "what had landed is asked for again, or not all of the rest"
        unharmed(destination, image)
    case.__name__ = f"a_vm_relayed_in_rounds_runs_on_over_{scheme}_{'whole' if whole else 'and_postcopy'}"
    return case


def a_relayed_round_that_is_cut_ends_with_what_was_asked_for(host):
    host.need(PAGE, 64)
    image = capture(host, guest=(*GUEST, *IDLE)).image
    asks, cut = threading.Event(), threading.Event()

    def answer(request, reply):
        asks.set()
        assert cut.wait(LIMIT_S)
        return reply

    destination = Vmm(host, incoming=True, mem=MEM)
    with giving(host, destination, image, features=PRECOPY, answer=answer) as (giver, taker):
        giver.up_to("in_round")
        assert asks.wait(LIMIT_S)
        giver.change_round(flags=m.ROUND_CUT)
        cut.set()
        giver.up_to("finished")
        quiet(taker)
    assert asked(giver, 0), "the whole set came though the round was cut"
    unharmed(destination, image)


def a_relayed_round_goes_on_when_its_limit_is_lifted(host):
    """At a byte a second it would not end before this test does."""
    host.need(PAGE, 64)
    image = capture(host, guest=(*GUEST, *IDLE)).image
    destination = Vmm(host, incoming=True, mem=MEM)
    with giving(host, destination, image, features=PRECOPY) as (giver, taker):
        giver.up_to("advised")
        giver.begin_round(giver.first_set, limit_bytes_per_s=1)
        giver.change_round(limit_bytes_per_s=0)
        giver.stage = "in_round"
        giver.up_to("finished")
        quiet(taker)
    assert asked(giver, 1) == set(giver.first_set) and not asked(giver, 0)
    unharmed(destination, image)


CASES = [
    moved("of_a_guest_that_reads", IDLE),
    moved("of_a_guest_that_writes_slowly", SLOW, scheme="unix"),
    moved("of_a_guest_that_writes_fast_and_then", FAST, "--downtime-limit", 1),
    moved("and_while_it_stands_still", SLOW, "--precopy-only"),
    a_destination_of_its_own_cuts_a_round_when_it_is_told_to,
    a_destination_of_its_own_hears_limits,
    a_destination_that_knows_no_rounds_is_refused,
    pages_of_rounds_are_given_back_once_the_vm_is_elsewhere,
    relayed(False, "tcp"),
    relayed(True, "tcp"),
    relayed(False, "unix"),
    a_relayed_round_that_is_cut_ends_with_what_was_asked_for,
    a_relayed_round_goes_on_when_its_limit_is_lifted,
]
