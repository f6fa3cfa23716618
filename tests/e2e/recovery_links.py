# SPDX-License-Identifier: Apache-2.0
"""Links that are cut, or silent: both programs find a new one by themselves."""
import os
import random

from host import M, err_of, wait_until
from networks import ADDRESSES, Networks
from recovering import Move, rest

CUTS = 25
NOTICED_WITHIN_S = 40  # TCP_SILENCE_MAX_MS of the transport is 30 s


def cut_again_and_again(scheme):
    """After 72 bytes at the least: a HELLO, so that some new links are cut before they are whole."""
    def case(host):
        seed = int(os.environ.get("HF_E2E_SEED", random.randrange(1 << 32)))
        print(f"# seed {seed}", flush=True)
        chance = random.Random(seed)
        move = Move(host, scheme=scheme, mem=256 * M, rate=40 * M).hand_over()
        short = 0
        while move.relay.cuts < CUTS:
            length = chance.choice((chance.randrange(1, 2000), chance.randrange(2000, 4 * M)))
            short += length < 2000
            move.relay.cut_after(length)
            wait_until(lambda: not move.relay.waits_to_cut() or move.ended(), "the link is cut", 60)
            assert not move.ended(), [err_of(process) for process in move.programs.values()]
        assert short > 3
        move.complete()
    case.__name__ = f"25_cuts_at_any_byte_lose_nothing_over_{scheme}"
    return case


def told_of_loss(move):
    return all("the link was lost" in err_of(process) for process in move.programs.values())


def a_silent_link_is_noticed_by_both_and_taken_up_again(host):
    networks = Networks(host, "200mbit")
    move = Move(host, listen=f"tcp:{ADDRESSES[1]}:20000").hand_over([networks.enter(0), networks.enter(1)])
    networks.set_link("down")
    rest(3)  # nobody gives up so soon
    assert not told_of_loss(move)
    networks.set_link("up")
    rest(0.5)
    networks.set_link("down")
    wait_until(lambda: told_of_loss(move), "both sides notice", NOTICED_WITHIN_S)
    networks.set_link("up")
    move.complete()
    assert all(move.goes_on(which) for which in ("send", "receive"))


CASES = [
    cut_again_and_again("tcp"),
    cut_again_and_again("unix"),
    a_silent_link_is_noticed_by_both_and_taken_up_again,
]
