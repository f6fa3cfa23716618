# SPDX-License-Identifier: Apache-2.0
"""What is wrong whichever side does it, and what a program must say whatever a peer did."""
import messages as m
from host import one_line

RUDE = "\x1b]0;owned\x07\r\n second\u009b line\u202e\u2066 \x7f".encode() + b"\xff\xc0\x80 end"

UNREADABLE = {
    "type_0": m.make_frame(0),
    "type_15": m.make_frame(15, bytes(8)),
    "type_21": m.make_frame(21, bytes(8)),
    "type_2_32": m.make_frame(0xffffffff),
    "a_device_piece_of_2_20_and_1": m.make_frame(m.DEVICE, length=(1 << 20) + 1),
    "an_advise_of_2_32": m.make_frame(m.ADVISE, length=0xffffffff),
    "a_presence_too_short": m.make_frame(m.PRESENCE, bytes(12)),
    "a_round_too_short": m.make_frame(m.ROUND, bytes(12)),
    "a_round_of_524301": m.make_frame(m.ROUND, length=524301),
    "a_round_end_of_15": m.make_frame(m.ROUND_END, bytes(15)),
    "a_round_end_of_17": m.make_frame(m.ROUND_END, bytes(17)),
    "a_round_done_of_31": m.make_frame(m.ROUND_DONE, bytes(31)),
    "a_round_done_of_2_32": m.make_frame(m.ROUND_DONE, length=0xffffffff),
    "a_run_with_a_payload": m.make_frame(m.RUN, b"x"),
    "a_loaded_with_a_payload": m.make_frame(m.LOADED, b"x"),
    "a_fail_of_513_bytes": m.make_fail(bytes(501)),
    "a_hello_instead_of_a_frame": m.make_hello(wanted=(1, 1)),
}
BROKEN_FAILS = {
    "a_fail_of_class_0": m.make_fail(kind=0), "a_fail_of_class_5": m.make_fail(kind=5),
    "a_fail_of_errno_0": m.make_fail(errnum=0), "a_fail_of_errno_4096": m.make_fail(errnum=4096),
    "a_fail_with_text_missing": m.make_fail(text_bytes=500), "a_fail_with_text_too_long": m.make_fail(text_bytes=1),
}


def close_last(kind):
    return lambda peer, vmm: peer.link.of_class(kind)[-1].shut()


def close_within_a_frame(peer, vmm):
    peer.link.send(m.make_fail(bytes(100))[:50])
    peer.link.control.shut()


CLOSINGS = {
    "the_control_channel": lambda peer, vmm: peer.link.control.shut(),
    "an_urgent_channel": close_last(m.URGENT),
    "a_background_channel": close_last(m.BACKGROUND),
    "within_a_frame": close_within_a_frame,
}


def check_said(said, *words):
    """One line, warnings apart, without control characters."""
    lines = [line for line in said.split("\n") if "warning:" not in line]
    assert not any(m.FORBIDDEN.search(line) for line in lines), f"control characters: {said!r}"
    one_line("\n".join(lines), *words)
