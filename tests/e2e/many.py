# SPDX-License-Identifier: Apache-2.0
"""Many moves at once on one host: each has its own fate."""
import signal

from host import M, Vmm, assert_runs, assert_whole, err_of, finish, listening_uri, one_line, receive, send, wait_until
from relay import hand_over_within

MEM = 128 * M
PAGES = MEM // (2 * M)
STAGING = 16


class Move:
    """A VM that runs, a VMM that waits for it, and the two programs in between."""

    def __init__(self, host, number, destination_mem=MEM):
        self.host = host
        self.listen = f"unix:{host.name('link')}" if number % 2 else "tcp:127.0.0.1:0"
        self.placement = "copy" if number // 2 % 2 else "continue"
        self.source = Vmm(host, mem=MEM, vcpus=1)
        self.destination = Vmm(host, mem=destination_mem, vcpus=1, incoming=True)

    def take(self):
        self.taker = receive(self.host, self.destination, "--no-background", "--placement", self.placement,
                             listen=self.listen)

    def start(self):
        self.take()
        self.giver = send(self.host, self.source, listening_uri(self.taker))

    def start_without_end(self):
        """A quarter of the pages comes, and no more."""
        self.take()
        self.giver, _ = hand_over_within(self.host, self.source, self.destination, self.taker, MEM // 4)

    def wait_runs(self):
        wait_until(lambda: self.destination.status() == "running", "the VM runs at the destination")

    def let_go(self):
        self.taker.send_signal(signal.SIGUSR1)

    def check_completed(self):
        assert finish(self.taker)[0] == 0 and finish(self.giver)[0] == 0, (err_of(self.taker), err_of(self.giver))
        assert_runs(self.destination)
        assert_whole(self.host, self.destination)

    def check_refused(self, *parts):
        for process in (self.giver, self.taker):
            code, said = finish(process)
            assert code == 1, (code, said)
            one_line(said, *parts)
        assert_runs(self.source)
        assert self.destination.status() == "inmigrate"


def eight_moves_at_once_have_eight_fates(host):
    """One is refused, one loses its receiver; the other six are in postcopy together and arrive whole."""
    host.need(2 * M, 8 * (2 * PAGES + STAGING) + PAGES)
    moves = [Move(host, number) for number in range(7)] + [Move(host, 7, destination_mem=2 * MEM)]
    *whole, killed, refused = moves
    for move in (*whole, refused):
        move.start()
    killed.start_without_end()
    for move in whole:
        move.wait_runs()
    killed.taker.kill()
    for move in whole:
        move.let_go()
    for move in whole:
        move.check_completed()
    refused.check_refused("ram0", "128 MiB", "256 MiB")
    code, said = finish(killed.giver)
    assert code == 4 and "must not be run" in said, (code, said)
    assert killed.source.status() not in ("running", "inmigrate")
    assert killed.destination.status() == "running"


def two_copies(host):
    host.need(2 * M, 4 * PAGES + 2 * STAGING)
    moves = [Move(host, 2), Move(host, 3)]
    assert all(move.placement == "copy" for move in moves)
    assert host.make_available(2 * M, STAGING + 5)  # staging for one of them
    return moves


def the_second_of_two_that_need_the_last_pages_is_refused(host):
    for first in (0, 1):
        moves = two_copies(host)
        winner, loser = moves[first], moves[1 - first]
        winner.start()
        winner.wait_runs()
        loser.start()
        loser.check_refused("16 huge pages of 2 MiB")
        winner.let_go()
        winner.check_completed()
        assert host.available(2 * M) >= STAGING  # given back
        assert_runs(loser.source)
        host.end_processes()


def two_that_reach_for_the_last_pages_at_once_get_them_once(host):
    moves = two_copies(host)
    for move in moves:
        move.start()
    wait_until(lambda: any(move.destination.status() == "running" or move.taker.poll() is not None
                           for move in moves), "one of them has come somewhere")
    wait_until(lambda: all(move.destination.status() == "running" or move.giver.poll() is not None
                           for move in moves), "both have come somewhere")
    winners = [move for move in moves if move.destination.status() == "running"]
    assert len(winners) == 1, f"{len(winners)} of two got the pages of one"
    for move in moves:
        if move in winners:
            move.let_go()
            move.check_completed()
        else:
            move.check_refused("16 huge pages of 2 MiB")


CASES = [
    eight_moves_at_once_have_eight_fates,
    the_second_of_two_that_need_the_last_pages_is_refused,
    two_that_reach_for_the_last_pages_at_once_get_them_once,
]
