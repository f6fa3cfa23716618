# SPDX-License-Identifier: Apache-2.0
"""Destinations that break the protocol, against a real `send`.

A case is one attack at one stage. Until the source has heard LOADED it fails and its VM runs on; afterwards the VM
belongs to the destination, whatever that does: the source is paused and never runs it again.
"""
import subprocess

import messages as m
from host import M, Vmm, assert_runs, finish, wait_until
from peers import compare_with_file, ram_of, taking
from wrong import BROKEN_FAILS, CLOSINGS, RUDE, UNREADABLE, check_said

MEM = 16 * M
PAGE = 2 * M
HANDED_OVER = ("loaded", "running", "fetched", "complete")


def check_outcome(stage, vmm, code, said, *words):
    if stage == "complete":
        assert (code, said) == (0, ""), (code, said)
        return
    check_said(said, *words)
    if stage in HANDED_OVER:
        assert code == 4 and "must not be run again" in said, (code, said)
        assert vmm.status() not in ("running", "inmigrate"), vmm.status()
    else:
        assert code == 1 and "the source VM runs on" in said, (code, said)
        assert_runs(vmm)


def attack(stage, name, act, *words, fail=None, features=0, options=()):
    """`act` is bytes for the control channel, or is called with the destination; `fail`: must FAIL be heard?"""
    return m.Record(stage=stage, name=name, act=act, words=words, fail=fail, features=features,
                    options=options)


def options_for(vmm, features, *options):
    return [*options, *(["--precopy", "--attach", vmm.attach] if features & m.FEATURE_PRECOPY else [])]


def carry_out(host, vmm, row):
    with taking(host, vmm, *options_for(vmm, row.features, *row.options), features=row.features) as (giver, taker):
        taker.up_to(row.stage)
        if isinstance(row.act, bytes):
            taker.link.send(row.act)
        else:
            row.act(taker, vmm)
        heard = taker.see_out()
        code, said = finish(giver)
    check_outcome(row.stage, vmm, code, said, *row.words)
    assert row.fail is None or (heard is not None) == row.fail, heard


def one_vm_for_each(row):
    def case(host):
        host.need(2 * M, 16)
        carry_out(host, Vmm(host, mem=MEM, vcpus=1), row)
    case.__name__ = f"send_{row.stage}_{row.name}"
    return case


def one_vm_for_all(stage, rows):
    """A VM that runs on after every attack of the stage, so one is enough."""
    def case(host):
        host.need(2 * M, 16)
        vmm = Vmm(host, mem=MEM, vcpus=1)
        for row in rows:
            try:
                carry_out(host, vmm, row)
            except Exception as error:
                raise AssertionError(f"attack: {row.name}") from error
    case.__name__ = f"send_{stage}_survives_{len(rows)}_attacks"
    return case


def leaves_a_record(row):
    """Of a VM that is given up, or of one whose destination may still wait to be told that it is not."""
    return row.stage in HANDED_OVER or row.features & m.FEATURE_RECOVER


def cases_of(rows):
    runs_on = [row for row in rows if not leaves_a_record(row)]
    stages = dict.fromkeys(row.stage for row in runs_on)
    return [one_vm_for_all(stage, [row for row in runs_on if row.stage == stage]) for stage in stages] + [
        one_vm_for_each(row) for row in rows if leaves_a_record(row)]


BLOCK = (b"ram0", MEM, PAGE)
LOADED, RESUMED, COMPLETE = (m.make_frame(kind) for kind in (m.LOADED, m.RESUMED, m.COMPLETE))
WRONG_DIRECTION = {
    "advise": m.make_advise([BLOCK]), "presence": m.make_presence(0, 0, [1] * 8),
    "device": m.make_frame(m.DEVICE, b"state"), "device_end": m.make_device_end(5), "run": m.make_frame(m.RUN),
    "finish": m.make_finish(), "wish": m.make_wish(), "check": m.make_frame(m.CHECK),
    "link_without_the_feature": m.make_link(), "round": m.make_round(0, 0, [1]), "round_end": m.make_round_end(1),
}


def closings(stage):
    return [attack(stage, f"closes_{name}", act) for name, act in CLOSINGS.items()]


def everywhere(stage):
    frames = {**WRONG_DIRECTION, **UNREADABLE, **BROKEN_FAILS}
    return [attack(stage, f"sends_{name}", frame) for name, frame in frames.items()] + closings(stage)


def out_of_order():
    rows = [
        ("advised", "loaded_first", LOADED), ("advised", "resumed_first", RESUMED),
        ("advised", "complete_first", COMPLETE), ("advised", "ready_twice", m.make_ready() * 2),
        ("advised", "ready_by_placement_2", m.make_ready(2)),
        *(("advised", f"ready_with_chunks_of_{size}", m.make_ready(1, size))
          for size in (0, 2048, 4097, 3 << 12, 1 << 27)),
        ("ready", "ready_twice", m.make_ready()), ("ready", "resumed", RESUMED), ("ready", "complete", COMPLETE),
        ("loaded", "loaded_twice", LOADED), ("loaded", "complete_before_resumed", COMPLETE),
        ("loaded", "ready", m.make_ready()),
        ("running", "resumed_twice", RESUMED), ("running", "loaded", LOADED),
        ("loaded", "fails", m.make_fail()), ("running", "fails", m.make_fail()),
        ("running", "fails_rudely", m.make_fail(RUDE)),
        *((stage, "refuses_without_the_feature", m.make_refused()) for stage in ("advised", "loaded", "running")),
        ("complete", "complete_twice", COMPLETE), ("complete", "fails", m.make_fail()),
    ]
    return [attack(stage, name, frame) for stage, name, frame in rows]


def links():
    """The feature LINK, misused."""
    unknown = {"round_trip_ns": 0}, {"rate_bytes_per_s": 0}
    rows = {
        "no_link_before_ready": m.make_ready(), "link_twice": m.make_link() * 2,
        "a_link_without_round_trip": m.make_link(**unknown[0]), "a_link_without_rate": m.make_link(**unknown[1]),
    }
    return [attack("advised", name, frame, features=m.FEATURE_LINK) for name, frame in rows.items()] + [
        attack("ready", "link_after_ready", m.make_link(), features=m.FEATURE_LINK)]


def placed():
    """PLACED, misused, against `send` with and without --release-ram. Nothing is ever given back for it."""
    both = m.FEATURE_RECOVER | m.FEATURE_RELEASE
    pages = MEM // PAGE
    frames = {
        "behind_the_end": m.make_placed((0, pages, 1)), "over_the_end": m.make_placed((0, 0, pages + 1)),
        "of_an_unknown_block": m.make_placed((1, 0, 1)), "of_0_pages": m.make_placed((0, 0, 0)),
        "of_2_32_less_1_pages": m.make_placed((0, 1, 0xffffffff)), "of_0_ranges": m.make_placed(),
        "of_129_ranges": m.make_placed(*[(0, 0, 1)] * 129), "cut_short": m.make_placed((0, 0, 1), count=2),
        "with_a_good_range_first": m.make_placed((0, 0, 1), (0, pages, 1)),
    }
    good = m.make_placed((0, 0, pages))
    rows = [attack("running", f"placed_{name}", frame, features=both, options=("--release-ram",))
            for name, frame in frames.items()]
    return rows + [attack(stage, "placed_before_resumed", good, features=both, options=("--release-ram",))
                   for stage in ("advised", "ready", "loaded")] + [
        attack("running", "placed_without_the_feature", good)]


# ---- page channels ----


def ask(raw):
    """On every page channel at once, and again and again while they are open."""
    def act(taker, vmm):
        for channel in taker.link.pages.values():
            channel.send(raw)
    return act


def requests(stage, **options):
    rows = {
        "of_an_unknown_block": (1, 0, 4096), "of_block_2_32_less_2": (0xfffffffe, 0, 4096),
        "of_the_probe_block": (m.PROBE_BLOCK, 0, 4096),
        "at_an_odd_offset": (0, 1, 4096), "at_half_an_offset": (0, 2048, 4096), "behind_the_end": (0, MEM, 4096),
        "far_behind_the_end": (0, 1 << 62, 4096), "at_the_end_of_all_offsets": (0, 2**64 - 4096, 4096),
        "of_0_bytes": (0, 0, 0), "of_4095_bytes": (0, 0, 4095), "of_2_26_and_4096_bytes": (0, 0, (1 << 26) + 4096),
        "of_2_32_less_4096_bytes": (0, 0, 0xfffff000), "of_two_pages": (0, 0, 2 * PAGE),
        "over_a_page_edge": (0, PAGE - 4096, 8192), "over_the_end": (0, MEM - 4096, 8192),
    }
    frames = {name: m.make_request(block, 1, offset, length) for name, (block, offset, length) in rows.items()}
    frames["with_the_marker_of_a_reply"] = m.make_request(0, 1, 0, 4096, marker=m.REPLY)
    frames["of_garbage"] = bytes(range(64))
    return [attack(stage, f"request_{name}", ask(frame), "channel", **options) for name, frame in frames.items()]


GOOD_REQUEST = m.make_request(0, 1, 0, 4096)
PROBE_REQUESTS = {
    "over_the_end": m.make_request(m.PROBE_BLOCK, 1, m.PROBE_BYTES - 4096, 8192),
    "behind_the_end": m.make_request(m.PROBE_BLOCK, 1, m.PROBE_BYTES, 4096),
    "of_2_26_bytes": m.make_request(m.PROBE_BLOCK, 1, 0, 1 << 26),
    "at_the_end_of_all_offsets": m.make_request(m.PROBE_BLOCK, 1, 2**64 - 4096, 4096),
}


def half_a_request(taker, vmm):
    channel = taker.link.of_class(m.URGENT)[0]
    channel.send(GOOD_REQUEST[:16])
    channel.shut()


def asks_much_and_reads_nothing(then):
    """The source's page threads are stuck in the middle of replies when the end comes."""
    def act(taker, vmm):
        whole_page = m.make_request(0, 1, 0, PAGE)
        for channel in taker.link.pages.values():
            channel.send(whole_page * 64)
        then(taker)
    return act


# ---- rounds ----

PRECOPY = {"features": m.FEATURE_PRECOPY}
HUGE = 2**64 - 1


def rounds():
    """ROUND_DONE where it is not due, and what else is not due in a round."""
    frames = {**WRONG_DIRECTION, **UNREADABLE, **BROKEN_FAILS, "ready": m.make_ready(), "loaded": LOADED,
              "resumed": RESUMED, "complete": COMPLETE, "round_0": m.make_round_done(0),
              "round_2": m.make_round_done(2),
              "round_2_32": m.make_round_done(0xffffffff), "one_round_twice": m.make_round_done(1) * 2}
    return [
        *(attack("in_round", f"rounds_sends_{name}", frame, **PRECOPY) for name, frame in frames.items()),
        *(attack("in_round", f"rounds_closes_{name}", act, **PRECOPY) for name, act in CLOSINGS.items()),
        *requests("in_round", **PRECOPY),
        attack("advised", "rounds_request_before_ready", ask(GOOD_REQUEST), "channel", **PRECOPY),
        attack("in_round", "rounds_half_a_request", half_a_request, **PRECOPY),
        attack("in_round", "rounds_closes_while_replies_wait",
               asks_much_and_reads_nothing(lambda taker: taker.link.shut()), **PRECOPY),
        attack("in_round", "rounds_fails_rudely", m.make_fail(RUDE), fail=False, **PRECOPY),
        attack("advised", "rounds_ready_by_copy", m.make_ready(0), "places pages by copy", **PRECOPY),
        *(attack(stage, "rounds_done_unasked", m.make_round_done(1), **PRECOPY)
          for stage in ("advised", "ready", "loaded", "running")),
        *(attack(stage, "rounds_done_without_the_feature", m.make_round_done(1))
          for stage in ("advised", "ready", "loaded", "running")),
    ]


def figures(name, **lies):
    """Whatever a destination says of its rounds, they end, and no byte is lost."""
    def case(host):
        host.need(2 * M, 16)
        vmm = Vmm(host, mem=MEM, vcpus=1)
        with taking(host, vmm, *options_for(vmm, m.FEATURE_PRECOPY), **PRECOPY) as (giver, taker):
            taker.lies = lies
            taker.up_to("fetched")
            compare_with_file(taker.image, vmm)
            taker.up_to("finished")
            assert finish(giver)[0] == 0
        assert taker.rounds_done
    case.__name__ = f"send_in_round_hears_{name}_and_completes"
    return case


# ---- silence ----


def silent(stage, trickle=b"", features=0):
    """Nothing comes, or too little: `send` cancels in time and its VM runs on."""
    def case(host):
        host.need(2 * M, 16)
        vmm = Vmm(host, mem=MEM, vcpus=1)
        with taking(host, vmm, "--timeout", 1, *options_for(vmm, features), features=features) as (giver, taker):
            taker.up_to(stage)
            for byte in trickle:
                taker.link.send(bytes([byte]))
                try:
                    giver.wait(0.1)
                    break
                except subprocess.TimeoutExpired:
                    continue
            code, said = finish(giver, 10)
        assert code == 3 and "within 1 s" in said.splitlines()[0], (code, said)
        assert_runs(vmm)
    case.__name__ = f"send_{stage}_{'hears_a_trickle' if trickle else 'hears_nothing'}_and_cancels"
    return case


def silence_after_the_hand_over_is_waited_out(host):
    """There is nothing to go back to; what the destination asks for at last is served."""
    host.need(2 * M, 16)
    vmm = Vmm(host, mem=MEM, vcpus=1)
    with taking(host, vmm, "--timeout", 1) as (giver, taker):
        taker.up_to("loaded")
        try:
            giver.wait(2)
            raise AssertionError("send has ended")
        except subprocess.TimeoutExpired:
            pass
        taker.up_to("finished")
        assert finish(giver)[0] == 0


def a_page_written_before_the_attack_is_still_the_vms(host):
    """Whatever is asked for, serving never writes: the memory stays as it is while the VM stands still."""
    host.need(2 * M, 16)
    vmm = Vmm(host, mem=MEM, vcpus=1)
    with taking(host, vmm) as (giver, taker):
        taker.up_to("running")
        with ram_of(vmm) as ram:
            before = bytes(ram)
            taker.fetch_all()
            taker.link.of_class(m.URGENT)[0].send(bytes(32))
            taker.see_out()
            assert finish(giver)[0] == 4
            assert ram[:] == before


CASES = cases_of([
    *everywhere("advised"), *everywhere("ready"), *everywhere("loaded"), *closings("linked"), *closings("running"),
    *closings("fetched"), *out_of_order(), *links(), *placed(),
    *(attack(stage, "fails_rudely", m.make_fail(RUDE), fail=False) for stage in ("linked", "advised", "ready")),
    *requests("ready"), *requests("running"),
    *(attack("advised", f"probe_{name}", ask(frame), "channel", features=m.FEATURE_LINK)
      for name, frame in PROBE_REQUESTS.items()),
    attack("ready", "probe_after_ready", ask(m.make_request(m.PROBE_BLOCK, 1, 0, 4096)), "channel",
           features=m.FEATURE_LINK),
    attack("advised", "request_before_ready", ask(GOOD_REQUEST), "channel"),
    attack("complete", "request_after_complete", ask(GOOD_REQUEST)),
    *(attack(stage, "half_a_request", half_a_request) for stage in ("ready", "running")),
    *(attack(stage, "closes_while_replies_wait", asks_much_and_reads_nothing(lambda taker: taker.link.shut()))
      for stage in ("ready", "running")),
    attack("ready", "fails_while_replies_wait",
           asks_much_and_reads_nothing(lambda taker: taker.link.send(m.make_fail()))),
    *rounds(),
]) + [
    figures("no_rate", rate_bytes_per_s=0), figures("the_highest_rate", rate_bytes_per_s=HUGE),
    figures("a_rate_of_1", rate_bytes_per_s=1), figures("all_zero", moved_bytes=0, duration_ns=0, rate_bytes_per_s=0),
    figures("all_ones", moved_bytes=HUGE, duration_ns=HUGE, rate_bytes_per_s=HUGE),
    silent("in_round", **PRECOPY), silent("linked"), silent("ready"),
    silent("advised", m.make_ready() + m.make_frame(m.LOADED)),
    silence_after_the_hand_over_is_waited_out, a_page_written_before_the_attack_is_still_the_vms,
]
