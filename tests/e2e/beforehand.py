# SPDX-License-Identifier: Apache-2.0
"""What `receive` does before a source comes: memory is made ready, and made what it was if none does."""
import os
import signal
import socket

from host import (M, Touch, Vmm, assert_runs, assert_whole, await_memory, err_of, finish, listening_uri, out_of, receive,
                  send, wait_until)
from precopy import Move, rounds_at_least

MEM = 256 * M


def waiting(host):
    """A VM, one that waits for it, and a `receive` that has made it ready."""
    host.need(2 * M, 2 * MEM // (2 * M) + 64)
    source, destination = Vmm(host, mem=MEM), Vmm(host, incoming=True, mem=MEM)
    taker = receive(host, destination)
    listening_uri(taker)
    await_memory(taker)
    return source, destination, taker


def allocated(vmm):
    return os.stat(vmm.ram).st_blocks * 512


def moves(host, source, destination, taker, *options):
    giver = send(host, source, listening_uri(taker), *options)
    for process in (giver, taker):
        assert finish(process) == (0, ""), err_of(process)
    assert_runs(destination)
    assert destination.errors() == 0
    assert_whole(host, destination)


def memory_is_allocated_before_a_source_comes_and_given_back_if_none_does(host):
    source, destination, taker = waiting(host)
    assert allocated(destination) == MEM
    touch = Touch(destination, 4 * M)
    wait_until(touch.waits, "a page is waited for")
    taker.send_signal(signal.SIGTERM)
    assert finish(taker)[0] == 3, err_of(taker)
    touch.thread.join(10)
    assert touch.result == (1, b"\0"), touch.result
    assert destination.status() == "inmigrate"
    assert allocated(destination) == 2 * M, "only what was touched is there"
    assert_runs(source)


def a_receiver_that_ended_before_a_source_came_can_be_started_again(host):
    source, destination, taker = waiting(host)
    taker.send_signal(signal.SIGTERM)
    assert finish(taker)[0] == 3, err_of(taker)
    assert allocated(destination) == 0
    moves(host, source, destination, receive(host, destination))


def a_receiver_killed_before_a_source_came_can_be_started_again(host):
    source, destination, taker = waiting(host)
    taker.kill()
    taker.wait(10)
    touch = Touch(destination, 4 * M)
    wait_until(touch.waits, "a page is waited for with nobody there")
    taker = receive(host, destination)
    listening_uri(taker)
    await_memory(taker)
    assert touch.waits()
    moves(host, source, destination, taker)
    touch.thread.join(10)
    assert touch.result[0] == 1, touch.result


def a_receiver_killed_while_it_allocates_can_be_started_again(host):
    host.need(2 * M, 2 * MEM // (2 * M) + 64)
    source, destination = Vmm(host, mem=MEM), Vmm(host, incoming=True, mem=MEM)
    taker = receive(host, destination)
    listening_uri(taker)
    taker.kill()
    taker.wait(10)
    moves(host, source, destination, receive(host, destination))


def a_receiver_ended_while_it_allocates_leaves_the_vmm_as_it_was(host):
    host.need(2 * M, 2 * MEM // (2 * M) + 64)
    source, destination = Vmm(host, mem=MEM), Vmm(host, incoming=True, mem=MEM)
    taker = receive(host, destination)
    listening_uri(taker)
    taker.send_signal(signal.SIGTERM)
    assert finish(taker)[0] == 3, err_of(taker)
    assert allocated(destination) == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        taker = receive(host, destination, listen=f"tcp:127.0.0.1:{taken.getsockname()[1]}")
        assert finish(taker)[0] == 1, err_of(taker)
    assert allocated(destination) == 0
    moves(host, source, destination, receive(host, destination))


def a_receiver_killed_in_a_round_can_be_started_again_with_another_source(host):
    """Bytes of the first source have landed; none of them may be seen."""
    move = Move(host, ("--pattern", "random", "--write-share", 20), "--precopy", "--max-bandwidth", 8 * M, mem=MEM)
    control = move.control()
    wait_until(lambda: control.execute("query-migrate").get("ram", {}).get("transferred", 0) > 4 * M, "pages have landed")
    move.taker.kill()
    move.taker.wait(10)
    assert finish(move.giver)[0] == 1, err_of(move.giver)
    assert_runs(move.source)
    host.need(2 * M, MEM // (2 * M) + 32)
    other = Vmm(host, mem=MEM)
    moves(host, other, move.destination, receive(host, move.destination))
    assert_whole(host, move.source)


def a_source_that_goes_away_in_a_round_leaves_a_vmm_for_the_next(host):
    move = Move(host, (), "--precopy", "--max-bandwidth", 8 * M, mem=MEM)
    rounds_at_least(move.control(), 1)
    move.giver.send_signal(signal.SIGTERM)
    assert finish(move.giver)[0] == 3, err_of(move.giver)
    code, said = finish(move.taker)
    assert code == 3 and "untouched and still in inmigrate" in said, (code, said)
    assert allocated(move.destination) == 0
    moves(host, move.source, move.destination, receive(host, move.destination))


def a_source_may_wish_for_copy_when_all_is_allocated(host):
    source, destination, taker = waiting(host)
    host.need(2 * M, 32)
    moves(host, source, destination, taker, "--placement", "copy")


def what_is_missing_at_first_is_told_and_may_come_later(host):
    host.need(2 * M, 2 * MEM // (2 * M) + 64)
    source, destination = Vmm(host, mem=MEM), Vmm(host, incoming=True, mem=MEM)
    host.need(2 * M, 3)
    taker = receive(host, destination, "--placement", "copy")
    wait_until(lambda: "memory is not ready" in out_of(taker), "that is told")
    assert "13 huge pages" in out_of(taker), out_of(taker)
    host.need(2 * M, 16)
    moves(host, source, destination, taker)


CASES = [
    memory_is_allocated_before_a_source_comes_and_given_back_if_none_does,
    a_receiver_that_ended_before_a_source_came_can_be_started_again,
    a_receiver_killed_before_a_source_came_can_be_started_again,
    a_receiver_killed_while_it_allocates_can_be_started_again,
    a_receiver_ended_while_it_allocates_leaves_the_vmm_as_it_was,
    a_receiver_killed_in_a_round_can_be_started_again_with_another_source,
    a_source_that_goes_away_in_a_round_leaves_a_vmm_for_the_next,
    a_source_may_wish_for_copy_when_all_is_allocated,
    what_is_missing_at_first_is_told_and_may_come_later,
]
