# SPDX-License-Identifier: Apache-2.0
"""The memory of a QEMU compared with what arrived of it, byte by byte.

The guest stands still for good, by its own will, before its VM is stopped: nothing has written to its memory since, here
or there, and the source's file is kept.
"""
import re

from host import M, Qmp, finish, listening_uri, receive, send, wait_until
from qemu import pair

SLOW = 8 * M  # bytes a second: the guest stands still long before the first round is over


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


def assert_moves_as_it_is(source, destination, giver, taker):
    codes = [finish(giver), finish(taker)]
    assert [code for code, _ in codes] == [0, 0], codes
    assert halted(destination) and source.is_frozen()
    assert_same_memory(source, destination)


def client_of(path):
    try:
        return Qmp(path)
    except OSError:
        return None


def wait_halted(vm):
    wait_until(lambda: halted(vm), "the guest stands still")


def same(placement):
    def case(host):
        source, destination = pair(host, words=("halt",), blocks=(96, 160))
        taker = receive(host, destination, "--placement", placement)
        wait_halted(source)
        giver = send(host, source, listening_uri(taker), "--keep")
        assert_moves_as_it_is(source, destination, giver, taker)
    case.__name__ = f"memory_that_came_by_{placement}_is_the_same_byte_by_byte"
    return case


def memory_that_came_in_rounds_is_the_same_byte_by_byte(host):
    """Written while the first one moved it; what was moved too early has to come again."""
    source, destination = pair(host, words=("halt",), blocks=(96, 160))
    control = host.name("control")
    taker = receive(host, destination)
    giver = send(host, source, listening_uri(taker), "--keep", "--precopy-only", "--attach", source.attach,
                 "--max-bandwidth", SLOW, "--qmp", f"unix:{control}")
    client = wait_until(lambda: client_of(control), "send answers")
    wait_until(lambda: client.execute("query-migrate").get("status") == "active", "the first round has begun")
    wait_halted(source)
    client.execute("migrate-set-parameters", **{"max-bandwidth": 0})
    client.close()
    assert_moves_as_it_is(source, destination, giver, taker)


CASES = [
    same("copy"),
    same("continue"),
    memory_that_came_in_rounds_is_the_same_byte_by_byte,
]
