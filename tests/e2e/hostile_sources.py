# SPDX-License-Identifier: Apache-2.0
"""Sources that break the protocol, against a real `receive`.

A case is one attack at one stage. What must come of it depends on the stage alone: before the destination has
said LOADED it fails and the waiting VMM has not run; afterwards it pauses, and missing pages stay missing.
"""
import os
import signal
import struct

import messages as m
from host import M, Touch, Vmm, finish, wait_until, waits_for_page
from peers import capture, giving
from wrong import BROKEN_FAILS, CLOSINGS, RUDE, UNREADABLE, check_said

MEM = 16 * M
PAGE = 2 * M
PAGES = MEM // PAGE
CACHE = []


def image_of(host):
    """One VM, taken once, is given to all."""
    if not CACHE:
        CACHE.append(capture(host, mem=MEM).image)
    return CACHE[0]


def vcpus_wait(vmm):
    """Both, in the kernel, for a page that is missing: nobody has got zeros instead."""
    threads = []
    for thread in os.listdir(f"/proc/{vmm.process.pid}/task"):
        with open(f"/proc/{vmm.process.pid}/task/{thread}/comm", encoding="ascii") as file:
            threads += [thread] if file.read().startswith("vcpu") else []
    return len(threads) == 2 and all(waits_for_page(vmm.process.pid, thread) for thread in threads)


def withheld(request, reply):
    """Only the first page, on which the guest's program is, comes."""
    return reply if request.offset < PAGE else None


def paused_with_missing_pages(vmm):
    touch = Touch(vmm, PAGES * PAGE - 1)
    wait_until(touch.waits, "the last page is waited for")
    touch.end()


def check_outcome(stage, vmm, code, said):
    if stage == "running":
        assert code == 4 and "after the hand-over" in said, (code, said)
        assert vmm.status() == "running"
        wait_until(lambda: vcpus_wait(vmm), "both vCPUs wait for missing pages")
        assert vmm.errors() == 0
        paused_with_missing_pages(vmm)
    elif stage == "loaded":
        assert code == 4 and "does not run" in said, (code, said)
        assert vmm.status() not in ("running", "inmigrate"), vmm.status()
        paused_with_missing_pages(vmm)
    else:
        assert code == 1, (code, said)
        assert vmm.status() != "running"
        assert ("untouched" in said) == (vmm.status() == "inmigrate"), said


def bring_to(giver, vmm, stage):
    # In a round, if there is one, the second page is withheld, so that the round does not end.
    giver.first_set = [(0, page) for page in range(2 if stage == "in_round" else 1)]
    if stage == "served":
        giver.up_to("device")
        vmm.process.send_signal(signal.SIGSTOP)  # so that it is not loaded before the attack
    giver.up_to(stage)
    if stage == "running":
        wait_until(lambda: any(request.offset >= PAGE for request in giver.requests), "the guest's program came")


def attack(stage, name, act, *words, answer=withheld, outcome=None, fail=None, features=0):
    """`act` is bytes for the control channel, or is called with the source; `fail`: must FAIL be heard?"""
    def case(host):
        host.need(2 * M, 32)
        image = image_of(host)
        completes = stage == "complete"
        options = [] if completes else ["--no-background"]
        vmm = Vmm(host, incoming=True, mem=MEM)
        with giving(host, vmm, image, *options, answer=None if completes else answer,
                    features=features) as (giver, taker):
            bring_to(giver, vmm, stage)
            if isinstance(act, bytes):
                giver.link.send(act)
            else:
                act(giver, vmm)
            heard = giver.see_out()
            vmm.process.send_signal(signal.SIGCONT)
            code, said = finish(taker)
        if completes:
            assert (code, said) == (0, "") and vmm.status() == "running", (code, said)
            return
        check_said(said, *words)
        check_outcome(outcome or stage, vmm, code, said)
        assert fail is None or (heard is not None) == fail, heard
        vmm.process.kill()  # asked to end, it would wait for its vCPUs
    case.__name__ = f"receive_{stage}_{name}"
    return case


def on_pages(**changes):
    """Answers to requests beyond the first page with another head."""
    def answer(request, reply):
        if request.offset < PAGE:
            return reply
        return m.make_reply(request, reply[m.PAGE.size:], **changes)
    return answer


def cut_short(request, reply):
    """Half the bytes, then the end."""
    request.channel.send(reply[:len(reply) // 2])
    request.channel.shut()


def after_page_0(change):
    def answer(request, reply):
        return reply if request.offset < PAGE else change(request, reply)
    return answer


# ---- ADVISE ----

BLOCK = (b"ram0", MEM, PAGE)


def raw_advise(name_bytes, count, rest):
    return m.make_frame(m.ADVISE, struct.pack(">II", name_bytes, count) + rest)


def advises():
    one = m.BLOCK.pack(MEM, PAGE, 4) + b"ram0"
    rows = {
        "of_no_block": raw_advise(0, 0, one),
        "of_257_blocks": m.make_advise([(b"%d" % i, PAGE, PAGE) for i in range(257)]),
        "of_more_blocks_than_come": m.make_advise([BLOCK], count=2),
        "of_fewer_blocks_than_come": m.make_advise([BLOCK, (b"ram1", MEM, PAGE)], count=1),
        "with_a_byte_too_many": raw_advise(0, 1, one + b"\0"),
        "with_a_byte_too_few": raw_advise(2, 1, b"vm" + one[:-1]),
        "with_a_name_of_256_bytes": m.make_advise([BLOCK], b"n" * 256),
        "with_a_name_longer_than_itself": raw_advise(255, 1, one),
        "with_a_huge_name_length": raw_advise(0xffffffff, 1, one),
        "with_a_name_that_is_not_utf8": m.make_advise([BLOCK], b"\xff\xfe"),
        "with_an_overlong_name": m.make_advise([BLOCK], b"\xc0\xaf"),
        "with_a_surrogate_name": m.make_advise([BLOCK], b"\xed\xa0\x80"),
        "with_an_escape_in_the_name": m.make_advise([BLOCK], b"\x1b[31mred"),
        "with_a_c1_control_in_the_name": m.make_advise([BLOCK], "\u009b31m".encode()),
        "with_a_direction_override_in_the_name": m.make_advise([BLOCK], "a\u202eb".encode()),
        "with_an_isolate_in_an_idstr": m.make_advise([("r\u2066m".encode(), MEM, PAGE)]),
        "with_an_empty_idstr": m.make_advise([(b"", MEM, PAGE)], b"some name"),
        "with_an_idstr_of_256_bytes": m.make_advise([(b"i" * 256, MEM, PAGE)]),
        "with_a_huge_idstr_length": raw_advise(0, 1, m.BLOCK.pack(MEM, PAGE, 0xfffffffc) + b"ram0"),
        "with_a_line_feed_in_an_idstr": m.make_advise([(b"ram\n0", MEM, PAGE)]),
        "with_one_idstr_twice": m.make_advise([BLOCK, BLOCK]),
        "of_a_page_size_of_0": m.make_advise([(b"ram0", MEM, 0)]),
        "of_a_page_size_of_3": m.make_advise([(b"ram0", MEM, 3 << 20)]),
        "of_a_page_size_of_2048": m.make_advise([(b"ram0", MEM, 2048)]),
        "of_a_page_size_above_2_34": m.make_advise([(b"ram0", 1 << 35, 1 << 35)]),
        "of_a_page_size_of_2_63": m.make_advise([(b"ram0", 1 << 63, 1 << 63)]),
        "of_a_block_without_length": m.make_advise([(b"ram0", 0, PAGE)]),
        "of_a_length_between_pages": m.make_advise([(b"ram0", MEM + 4096, PAGE)]),
        "of_2_32_pages": m.make_advise([(b"ram0", 1 << 44, 4096)]),
        "of_2_32_pages_in_two_blocks": m.make_advise([(b"ram0", 1 << 43, 4096), (b"ram1", 1 << 43, 4096)]),
        "of_2_64_bytes_in_two_blocks": m.make_advise([(b"a", 1 << 63, 1 << 34), (b"b", 1 << 63, 1 << 34)]),
        "of_another_page_size": m.make_advise([(b"ram0", MEM, 1 << 21 + 1)]),
        "of_another_length": m.make_advise([(b"ram0", MEM + PAGE, PAGE)]),
        "of_another_block": m.make_advise([(b"ram1", MEM, PAGE)]),
        "of_a_block_too_many": m.make_advise([BLOCK, (b"ram1", MEM, PAGE)]),
    }
    return [attack("linked", f"advise_{name}", frame, fail=True) for name, frame in rows.items()]


# ---- wrong wherever it comes ----

WRONG_DIRECTION = {"link": m.make_link(), "ready": m.make_ready(), "loaded": m.make_frame(m.LOADED),
                   "resumed": m.make_frame(m.RESUMED), "complete": m.make_frame(m.COMPLETE),
                   "check_without_the_feature": m.make_frame(m.CHECK), "round_done": m.make_round_done(1),
                   "round_without_the_feature": m.make_round(0, 0, [1]),
                   "round_end_without_the_feature": m.make_round_end(1)}


def unasked_reply(kind):
    def act(giver, vmm):
        request = m.Record(block=0, number=1, offset=0, length=4096)
        giver.link.of_class(kind)[0].send(m.make_reply(request, flags=m.ZERO))
    return act


def everywhere(stage):
    """Wrong at every stage."""
    frames = {**WRONG_DIRECTION, **UNREADABLE, **BROKEN_FAILS}
    rows = [attack(stage, f"sends_{name}", frame) for name, frame in frames.items()]
    rows += [attack(stage, "replies_unasked_on_an_urgent_channel", unasked_reply(m.URGENT)),
             attack(stage, "replies_unasked_on_a_background_channel", unasked_reply(m.BACKGROUND))]
    return rows + closings(stage)


def closings(stage):
    return [attack(stage, f"closes_{name}", act) for name, act in CLOSINGS.items()]


# ---- frames out of order, or wrong for what went before ----

FULL = m.make_presence(0, 0, [1] * PAGES)
RUN, FINISH = m.make_frame(m.RUN), m.make_finish()
DEVICE = m.make_frame(m.DEVICE, b"state")


def presences():
    rows = {
        "of_an_unknown_block": m.make_presence(1, 0, [1] * PAGES),
        "with_a_gap": m.make_presence(0, 1, [1] * (PAGES - 1)),
        "with_an_overlap": m.make_presence(0, 0, [1] * 5) + m.make_presence(0, 4, [1] * 4),
        "of_no_page": m.make_presence(0, 0, [1] * 8, pages=0),
        "of_a_page_too_many": m.make_presence(0, 0, [1] * (PAGES + 1)),
        "of_2_22_pages": m.make_presence(0, 0, [0] * (1 << 22)),
        "of_more_than_2_22_pages": m.make_presence(0, 0, [1] * 8, pages=(1 << 22) + 1),
        "of_2_32_pages": m.make_presence(0, 0, [1] * 8, pages=0xffffffff),
        "that_begins_behind_the_end": m.make_presence(0, 0xffffffff, [1]),
        "with_a_byte_too_many": m.make_presence(0, 0, [1] * 9, pages=8),
        "with_a_byte_too_few": m.make_presence(0, 0, [1] * 8, pages=9),
        "with_bits_behind_the_last_page": m.make_presence(0, 0, [1] * 8, pages=7),
        "twice": FULL + FULL,
    }
    return [attack("advised", f"presence_{name}", frame, fail=True) for name, frame in rows.items()]


def out_of_order():
    rows = [
        ("linked", "presence_first", FULL), ("linked", "device_first", DEVICE),
        ("linked", "device_end_first", m.make_device_end(1)), ("linked", "run_first", RUN),
        ("linked", "finish_first", FINISH),
        ("linked", "wish_for_placement_3", m.make_wish(3)), ("linked", "wish_to_hold_2", m.make_wish(0, 2)),
        ("advised", "advise_twice", m.make_advise([BLOCK])), ("advised", "wish_for_placement", m.make_wish(1)),
        ("advised", "device_before_presence", DEVICE),
        ("advised", "device_before_all_presence", m.make_presence(0, 0, [1] * 4) + DEVICE),
        ("advised", "device_end_before_presence", m.make_device_end(1)), ("advised", "run", RUN),
        ("advised", "finish", FINISH),
        ("presence", "advise", m.make_advise([BLOCK])), ("presence", "run", RUN),
        ("presence", "device_end_without_device", m.make_device_end(0)),
        ("presence", "device_end_of_1_without_device", m.make_device_end(1)),
        ("presence", "device_without_bytes", m.make_frame(m.DEVICE)),
        ("device", "presence", FULL), ("device", "run", RUN), ("device", "total_of_0", m.make_device_end(0)),
        ("device", "total_of_1", m.make_device_end(1)), ("device", "total_of_2_64", m.make_device_end(2**64 - 1)),
        ("served", "device", DEVICE), ("served", "device_end_twice", m.make_device_end(1)),
        ("served", "presence", FULL), ("served", "run_before_loaded", RUN), ("served", "finish", FINISH),
        ("loaded", "device", DEVICE), ("loaded", "finish", FINISH), ("loaded", "device_end", m.make_device_end(1)),
        ("running", "run_twice", RUN), ("running", "finish_before_complete", FINISH),
        ("running", "advise", m.make_advise([BLOCK])), ("running", "wish_for_placement", m.make_wish(2)),
        ("running", "fails", m.make_fail()), ("running", "fails_rudely", m.make_fail(RUDE)),
    ]
    return [attack(stage, name, frame) for stage, name, frame in rows]


def too_much_device_state(giver, vmm):
    piece = m.make_frame(m.DEVICE, bytes(1 << 20))
    for _ in range(257):
        giver.link.send(piece)


# ---- page channels ----


def replies(stage):
    head = m.PAGE.size
    rows = {
        "to_another_block": on_pages(block=1), "to_another_id": on_pages(number=99),
        "to_another_page": on_pages(offset=0), "to_an_offset_of_2_64": on_pages(offset=2**64 - 4096),
        "of_another_length": on_pages(length=4096), "of_no_length": on_pages(length=0),
        "of_a_huge_length": on_pages(length=0xfffff000), "with_an_unknown_flag": on_pages(flags=2),
        "with_zero_and_an_unknown_flag": on_pages(flags=m.ZERO | 1 << 31),
        "with_the_marker_of_a_request": on_pages(marker=m.REQUEST),
        "with_bytes_after_zero": on_pages(flags=m.ZERO),
        "cut_short": after_page_0(cut_short),
        "with_garbage": after_page_0(lambda request, reply: bytes(range(256)) * 4),
    }
    if stage == "loaded":
        rows["twice"] = after_page_0(lambda request, reply: reply + reply[:head])
    act = {"served": touch_page_1, "loaded": run}[stage]
    outcome = {"served": "served", "loaded": "running"}[stage]
    return [attack(stage, f"replies_{name}", act, answer=answer, outcome=outcome) for name, answer in rows.items()]


def run(giver, vmm):
    giver.link.send(RUN)


def touch_page_1(giver, vmm):
    """As a device does that is loaded: the VM need not run for a page to be asked for."""
    Touch(vmm, PAGE)


def advise(giver, vmm):
    giver.link.send(m.make_advise([BLOCK]))


def probes():
    """The link is measured before anything is made ready, so the VMM stays untouched."""
    def instead(**changes):
        return lambda request, reply: m.make_reply(request, reply[m.PAGE.size:], **changes)
    rows = {"with_zero": lambda request, reply: m.make_reply(request, flags=m.ZERO), "cut_short": cut_short,
            "to_another_id": instead(number=77), "to_a_block": instead(block=0),
            "with_an_unknown_flag": instead(flags=2), "of_another_length": instead(length=8192 * 2)}
    return [attack("linked", f"replies_to_the_probe_{name}", advise, answer=answer, features=m.FEATURE_LINK)
            for name, answer in rows.items()]


# ---- rounds ----

PRECOPY = m.FEATURE_PRECOPY
FINAL = m.ROUND_FINAL


def sets():
    return {
        "of_an_unknown_block": m.make_round(1, 0, [1] * PAGES),
        "of_a_page_too_many": m.make_round(0, 0, [1] * (PAGES + 1)),
        "that_begins_behind_the_end": m.make_round(0, PAGES, [1]),
        "that_begins_at_2_32": m.make_round(0, 0xffffffff, [1]),
        "with_a_page_twice": m.make_round(0, 0, [1] * 5) + m.make_round(0, 4, [1]),
        "that_goes_backwards": m.make_round(0, 4, [1]) + m.make_round(0, 0, [1]),
        "of_no_page": m.make_round(0, 0, [1] * 8, pages=0),
        "of_more_than_2_22_pages": m.make_round(0, 0, [1] * 8, pages=(1 << 22) + 1),
        "of_2_32_pages": m.make_round(0, 0, [1] * 8, pages=0xffffffff),
        "with_a_byte_too_many": m.make_round(0, 0, [1] * 9, pages=8),
        "with_a_byte_too_few": m.make_round(0, 0, [1] * 8, pages=9),
        "with_bits_behind_the_last_page": m.make_round(0, 0, [1] * 8, pages=7),
    }


def ends():
    return {
        "0": m.make_round_end(0), "2_first": m.make_round_end(2), "2_32_first": m.make_round_end(0xffffffff),
        "2_first_and_final": m.make_round_end(2, FINAL), "with_an_unknown_flag": m.make_round_end(1, 8),
        "cut_before_it_began": m.make_round_end(1, m.ROUND_CUT),
        "final_and_cut": m.make_round_end(1, FINAL | m.ROUND_CUT),
        "whole_and_not_final": m.make_round_end(1, m.ROUND_WHOLE),
    }


def rounds_out_of_order():
    piece, whole = m.make_round(0, 0, [1]), FINAL | m.ROUND_WHOLE
    return [
        *(("linked", name, frame) for name, frame in {
            "set_first": piece, "round_end_first": m.make_round_end(1),
            "final_set_first": m.make_round_end(1, FINAL)}.items()),
        ("advised", "presence_before_the_final_set", FULL), ("advised", "device_before_the_final_set", DEVICE),
        ("advised", "set_after_the_final_one", m.make_round_end(1, FINAL) + piece),
        ("advised", "set_after_the_whole_one", m.make_round_end(1, whole) + piece),
        ("advised", "final_set_twice", m.make_round_end(1, FINAL) + m.make_round_end(2, FINAL)),
        ("advised", "round_after_the_final_set", m.make_round_end(1, FINAL) + m.make_round_end(2)),
        ("in_round", "set_in_a_round", piece), ("in_round", "round_in_a_round", m.make_round_end(2)),
        ("in_round", "final_set_in_a_round", m.make_round_end(2, FINAL)),
        ("in_round", "round_becomes_final", m.make_round_end(1, FINAL)),
        ("in_round", "round_becomes_whole", m.make_round_end(1, whole)),
        ("in_round", "round_of_before", m.make_round_end(0)), ("in_round", "presence", FULL),
        ("in_round", "device", DEVICE), ("in_round", "run", RUN), ("in_round", "advise", m.make_advise([BLOCK])),
        ("moved", "round_left_out", m.make_round_end(3)), ("moved", "round_becomes_final", m.make_round_end(1, FINAL)),
        ("moved", "presence_before_the_final_set", FULL), ("moved", "set_twice", piece + piece),
        ("final", "set", piece), ("final", "final_set_again", m.make_round_end(2, FINAL)),
        ("final", "round_of_its_number", m.make_round_end(2)), ("final", "device", DEVICE),
        *((stage, name, frame) for stage in ("presence", "device", "served", "loaded", "running") for name, frame in {
            "set": piece, "round": m.make_round_end(3), "final_set": m.make_round_end(3, FINAL)}.items()),
    ]


# ---- pages to fetch first ----


def firsts():
    one = m.make_first([(0, 1)])
    rows = {"no_page": m.make_first([]) + bytes(8), "one_page_too_few": m.make_first([(0, 1)], count=2),
            "one_page_too_many": m.make_first([(0, 1)] * 2, count=1), "257_pages": m.make_first([(0, 1)] * 257),
            "2_32_pages": m.make_first([(0, 1)], count=0xffffffff), "an_unknown_block": m.make_first([(1, 0)]),
            "block_2_32": m.make_first([(0xffffffff, 0)]), "a_page_behind_the_end": m.make_first([(0, 1), (0, PAGES)]),
            "page_2_32": m.make_first([(0, 0xffffffff)]), "pages_twice": one + one}
    return [attack("presence", f"first_of_{name}", frame, features=m.FEATURE_FIRST) for name, frame in rows.items()] + [
        attack(stage, "first_out_of_order", one, features=m.FEATURE_FIRST)
        for stage in ("linked", "advised", "device", "served", "loaded", "running")] + [
        attack("presence", "first_without_the_feature", one)]


def nothing(giver, vmm):
    """The answers are the attack."""


def rounds():
    rows = [*(("advised", f"set_{name}", frame) for name, frame in sets().items()),
            *(("advised", f"round_end_{name}", frame) for name, frame in ends().items()),
            *rounds_out_of_order(),
            *(("in_round", f"sends_{name}", frame) for name, frame in {**UNREADABLE, **BROKEN_FAILS}.items()),
            *(("in_round", f"closes_{name}", act) for name, act in CLOSINGS.items()),
            ("in_round", "fails_rudely", m.make_fail(RUDE))]
    answers = {"to_another_block": on_pages(block=1), "to_another_id": on_pages(number=99),
               "of_another_length": on_pages(length=4096), "with_an_unknown_flag": on_pages(flags=2),
               "cut_short": after_page_0(cut_short)}
    return [attack(stage, f"rounds_{name}", act, features=PRECOPY) for stage, name, act in rows] + [
        attack("in_round", f"rounds_replies_{name}", nothing, answer=answer, features=PRECOPY)
        for name, answer in answers.items()]


CASES = [
    *rounds(), *firsts(), *advises(), *everywhere("linked"), *everywhere("served"), *everywhere("loaded"), *everywhere("running"),
    *closings("advised"), *closings("presence"), *closings("device"), *presences(), *out_of_order(),
    attack("device", "too_much_device_state", too_much_device_state),
    *(attack(stage, "fails_rudely", m.make_fail(RUDE), fail=False)
      for stage in ("linked", "advised", "presence", "device", "served")),
    *probes(), *closings("complete"),
    *(attack("complete", name, frame) for name, frame in {
        "fails": m.make_fail(), "run": RUN, "sends_garbage": bytes(64)}.items()),
    attack("linked", "check_without_link", m.make_frame(m.CHECK), features=m.FEATURE_CHECK),
    *replies("served"), *replies("loaded"),
    attack("loaded", "fails", m.make_fail(), "the peer says no", outcome="served"),
    attack("loaded", "fails_rudely", m.make_fail(RUDE), outcome="served"),
]
