# SPDX-License-Identifier: Apache-2.0
"""Whole moves of a running VM within one VM of the testbed, over any kind of address."""
from host import M, assert_runs, assert_whole, finish, listening_uri, receive, send, wait_until
from machine import SCHEMES, address, over
from recovering import Move

PLACEMENTS = ("continue", "copy")


def begun(host, scheme, placement, **options):
    return Move(host, mem=64 * M, listen=address(scheme), placement=placement, **options)


def arrives(host, source, destination, scheme, *options):
    taker = receive(host, destination, *options, listen=address(scheme))
    giver = send(host, source, listening_uri(taker))
    for process in (giver, taker):
        code, said = finish(process)
        assert code == 0, (code, said)
    assert_runs(destination)
    assert destination.errors() == 0
    assert_whole(host, destination)


def goes_on(move):
    """Both sides say so, or have come to the end meanwhile."""
    wait_until(lambda: all(map(move.goes_on, ("send", "receive"))) or move.ended(), "it goes on")


def a_vm_arrives_whole(scheme, placement):
    def case(host):
        begun(host, scheme, placement).begin().complete()
    return case


def killed_programs_go_on(scheme, placement):
    """The source's program while no page is on its way; then both at once."""
    def case(host):
        move = begun(host, scheme, placement, receive_options=["--no-background"])
        move.begin_held()
        move.kill("send")
        move.start("send")
        goes_on(move)
        for which in ("send", "receive"):
            move.kill(which)
        for which in ("receive", "send"):
            move.start(which)
        goes_on(move)
        move.let_run()
        move.complete()
    return case


CASES = [
    *(case for placement in PLACEMENTS for case in over(SCHEMES, a_vm_arrives_whole, placement)),
    *(case for placement in PLACEMENTS for case in over(SCHEMES, killed_programs_go_on, placement)),
]
