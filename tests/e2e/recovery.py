# SPDX-License-Identifier: Apache-2.0
"""Links that are lost and programs that are killed: the migration goes on, and no byte is lost."""
import signal

from host import M, Vmm, assert_runs, assert_whole, err_of, finish, listening_uri, receive, send, wait_until


def two_vmms(host, mem=256 * M):
    host.need(2 * M, 1024)
    return Vmm(host, mem=mem), Vmm(host, incoming=True, mem=mem)


def start_held(host, source, destination, *extra):
    """A move that has been handed over and lives on faults alone."""
    taker = receive(host, destination, "--no-background", *host.state_options("receive", 60), *extra)
    giver = send(host, source, listening_uri(taker), *host.state_options("send", 60))
    wait_until(lambda: destination.status() == "running", "the VM runs at the destination")
    return taker, giver


def a_killed_receiver_goes_on_when_it_is_started_again(host):
    source, destination = two_vmms(host)
    taker, giver = start_held(host, source, destination)
    uri = listening_uri(taker)
    taker.kill()
    taker.wait()
    again = receive(host, destination, *host.state_options("receive", 60), listen=uri)
    assert finish(again)[0] == 0, err_of(again)
    assert finish(giver)[0] == 0, err_of(giver)
    assert_runs(destination)
    assert_whole(host, destination)


def a_killed_sender_goes_on_when_it_is_started_again(host):
    source, destination = two_vmms(host)
    taker, giver = start_held(host, source, destination)
    uri = listening_uri(taker)
    giver.kill()
    giver.wait()
    again = send(host, source, uri, *host.state_options("send", 60))
    taker.send_signal(signal.SIGUSR1)
    assert finish(again)[0] == 0, err_of(again)
    assert finish(taker)[0] == 0, err_of(taker)
    assert_runs(destination)
    assert_whole(host, destination)


CASES = [
    a_killed_receiver_goes_on_when_it_is_started_again,
    a_killed_sender_goes_on_when_it_is_started_again,
]
