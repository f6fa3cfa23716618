# SPDX-License-Identifier: Apache-2.0
"""Moves between two VMs of the testbed, joined by a link: VM 1 gives, VM 2 takes. Both run each case, each its part."""
import contextlib
import os

from host import M, Vmm, assert_runs, assert_whole, finish, listening_uri, receive, send, wait_until
from machine import SCHEMES, address, over

VM = os.environ.get("TESTBED_VM")
MEM = 64 * M
PLACEMENTS = ("continue", "copy")


class Meeting:
    """What the two parts of a case tell each other, in files of the folder they share."""

    def __init__(self, case):
        self.prefix = f"/mnt/{case}-"

    def say(self, what, text=""):
        new = f"{self.prefix}of-{VM}"
        with open(new, "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(new, self.prefix + what)

    def hear(self, what):
        def look():
            assert not os.path.exists(self.prefix + "failed"), "the other part of the case has failed"
            with contextlib.suppress(FileNotFoundError), open(self.prefix + what, encoding="utf-8") as file:
                return file.read(), True
        return wait_until(look, f"the other part says '{what}'", 90)[0]


def in_two_parts(give, take):
    """give(host, MEETING) in one VM, take(host, MEETING) in the other; the end of one is heard by the other."""
    def case(host):
        meeting = Meeting(case.__name__)
        try:
            (give if VM == "1" else take)(host, meeting)
        except BaseException:
            meeting.say("failed")
            raise
    return case


def a_vm_moves_to_another_host(scheme, placement):
    def give(host, meeting):
        host.need(2 * M, MEM // (2 * M) + 32)
        source = Vmm(host, mem=MEM)
        code, said = finish(send(host, source, meeting.hear("uri")))
        assert code == 0, said
        meeting.hear("taken")
        assert source.resting()

    def take(host, meeting):
        host.need(2 * M, MEM // (2 * M) + 32)
        destination = Vmm(host, incoming=True, mem=MEM)
        taker = receive(host, destination, "--placement", placement, listen=address(scheme))
        meeting.say("uri", listening_uri(taker))
        code, said = finish(taker)
        assert code == 0, said
        assert_runs(destination)
        assert destination.errors() == 0
        assert_whole(host, destination)
        meeting.say("taken")
    return in_two_parts(give, take)


CASES = [case for placement in PLACEMENTS for case in over(SCHEMES, a_vm_moves_to_another_host, placement)]
