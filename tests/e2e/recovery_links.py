# SPDX-License-Identifier: Apache-2.0
"""Links that are cut, or silent: both programs find a new one by themselves."""
import os
import random
import subprocess

from host import LIBC, M, err_of, wait_until
from recovering import Move, rest

CUTS = 25
CLONE_NEWNET = 0x40000000
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


class Networks:
    """Two hosts of their own: network namespaces joined by a veth, which end with the processes that hold them."""

    def __init__(self, host, rate):
        self.holders = [host.start("unshare", "--net", "sleep", "infinity") for _ in range(2)]
        for holder in self.holders:
            wait_until(lambda holder=holder: self.net(holder.pid) != self.net(os.getpid()), "there is a network")
        self.run(0, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns",
                 str(self.holders[1].pid))
        for number in range(2):
            self.run(number, "ip", "addr", "add", f"10.77.77.{number + 1}/24", "dev", "eth0")
            self.run(number, "ip", "link", "set", "eth0", "up")
            self.run(number, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "256kb",
                     "latency", "200ms")

    @staticmethod
    def net(pid):
        return os.readlink(f"/proc/{pid}/ns/net")

    def run(self, number, *command):
        subprocess.run(["nsenter", f"--net=/proc/{self.holders[number].pid}/ns/net", *command], check=True,
                       capture_output=True)

    def set_link(self, state):
        self.run(1, "ip", "link", "set", "eth0", state)

    def enter(self, number):
        """For a process between fork and exec."""
        def set_namespace():
            fd = os.open(f"/proc/{self.holders[number].pid}/ns/net", os.O_RDONLY)
            assert LIBC.setns(fd, CLONE_NEWNET) == 0
            os.close(fd)
        return set_namespace


def told_of_loss(move):
    return all("the link was lost" in err_of(process) for process in move.programs.values())


def a_silent_link_is_noticed_by_both_and_taken_up_again(host):
    networks = Networks(host, "200mbit")
    move = Move(host, listen="tcp:10.77.77.2:20000").hand_over([networks.enter(0), networks.enter(1)])
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
