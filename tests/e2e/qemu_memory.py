# SPDX-License-Identifier: Apache-2.0
"""The memory of a QEMU compared with what arrived of it, byte by byte.

The guest stands still for good, by its own will, before its VM is stopped: nothing has written to its memory since, here
or there, and the source's file is kept.
"""
import re

from host import M, finish, listening_uri, receive, send, wait_until
from qemu import pair

RATE = 200 * M  # bytes a second: the guest writes all through the first rounds


def halted(vm):
    """Each vCPU waits, and no interrupt will end that."""
    said = vm.execute("human-monitor-command", **{"command-line": "info registers -a"})
    flags = re.findall(r"^RIP=\w+ RFL=(\w+) .*HLT=(\d)", said, re.MULTILINE)
    return len(flags) == 2 and all(halt == "1" and not int(rfl, 16) & 0x200 for rfl, halt in flags)


def assert_same_memory(source, destination):
    for one, other in zip(source.rams, destination.rams):
        with open(one, "rb") as mine, open(other, "rb") as theirs:
            page = 0
            while content := mine.read(2 * M):
                assert theirs.read(2 * M) == content, f"page {page} of {one} is another at the destination"
                page += 1
            assert not theirs.read(1) and page > 0


def same(placement, *options):
    def case(host):
        source, destination = pair(host, words=("halt",), blocks=(96, 160))
        taker = receive(host, destination, "--placement", placement)
        if not options:
            wait_until(lambda: halted(source), "the guest stands still")
        giver = send(host, source, listening_uri(taker), "--keep", *options,
                     *(("--attach", source.attach) if options else ()))
        codes = [finish(giver), finish(taker)]
        assert [code for code, _ in codes] == [0, 0], codes
        assert halted(destination) and source.is_frozen()
        assert_same_memory(source, destination)
    case.__name__ = f"memory_that_came_by_{placement}_{'after_rounds_' if options else ''}is_the_same_byte_by_byte"
    return case


CASES = [
    same("copy"),
    same("continue"),
    same("continue", "--precopy-only", "--max-bandwidth", RATE),
]
