# SPDX-License-Identifier: Apache-2.0
"""Ends at bad moments: whatever happens, the VM runs on at most one side and reads no false byte."""
import json
import os
import signal
import subprocess

from host import G, M, Vmm, assert_runs, err_of, finish, listening_uri, receive, send, wait_until
from relay import hand_over_within


def two_vmms(host, mem=512 * M):
    host.need(2 * M, 2048)
    return Vmm(host, mem=mem), Vmm(host, incoming=True, mem=mem)


def start_held(host):
    """A move that has been handed over and lives on faults alone."""
    source, destination = two_vmms(host)
    taker = receive(host, destination, "--no-background")
    giver, relay = hand_over_within(host, source, destination, taker, 64 * M)
    assert source.is_frozen()
    return source, destination, taker, giver, relay


def a_receiver_that_dies_after_the_hand_over_never_revives_the_source(host):
    source, destination, taker, giver, _ = start_held(host)
    taker.kill()
    code, said = finish(giver)
    assert code == 4, (code, said)
    assert "must not be run" in said and len(said.splitlines()) == 1, said
    assert source.status() == "frozen"
    assert destination.status() == "running"


def a_sender_that_dies_after_the_hand_over_leaves_the_vm_at_the_destination(host):
    source, destination, taker, giver, _ = start_held(host)
    giver.kill()
    code, said = finish(taker)
    assert code == 4, (code, said)
    assert len(said.splitlines()) == 1 and "waits" in said, said
    assert source.status() == "frozen"
    assert destination.status() == "running"


def a_receiver_that_dies_before_the_hand_over_leaves_the_source_running(host):
    source, destination = two_vmms(host)
    taker = receive(host, destination)
    uri = listening_uri(taker)
    taker.kill()
    taker.wait()
    code, said = finish(send(host, source, uri))
    assert code == 1 and uri in said, (code, said)
    assert_runs(source)


def signals_after_the_hand_over_are_refused_and_the_move_ends_well(host):
    source, destination, taker, giver, relay = start_held(host)
    giver.send_signal(signal.SIGTERM)
    taker.send_signal(signal.SIGINT)
    wait_until(lambda: err_of(giver) and err_of(taker), "both refuse")
    giver.send_signal(signal.SIGTERM)
    taker.send_signal(signal.SIGUSR1)
    relay.pages_open.set()
    assert finish(taker)[0] == 0 and finish(giver)[0] == 0
    assert destination.status() == "running"
    assert finish(source.process)[0] == -signal.SIGKILL


def a_signal_at_any_moment_leaves_exactly_one_running(host):
    """SIGTERM at moments spread over the whole move; either it was too late, or the source runs on."""
    outcomes = set()
    for after_ms in (0, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 5000):
        source, destination = two_vmms(host)
        taker = receive(host, destination)
        giver = send(host, source, listening_uri(taker))
        try:
            giver.wait(after_ms / 1000)
        except subprocess.TimeoutExpired:
            giver.send_signal(signal.SIGTERM)
        code, said = finish(giver)
        outcomes.add(code)
        if code == 0:
            assert finish(taker)[0] == 0, err_of(taker)
            assert destination.status() == "running"
        else:
            # -15: before the program had taken its signals over.
            assert code in (3, -signal.SIGTERM), (code, said)
            if code == 3:
                finish(taker)
            assert_runs(source)
            assert destination.process.poll() is not None or destination.status() != "running"
        host.end_processes()
    assert {0, 3} <= outcomes, f"no signal came early, or none came late: {outcomes}"


def a_time_limit_cancels_and_the_source_runs_on(host):
    source, destination = two_vmms(host)
    taker = receive(host, destination)
    uri = listening_uri(taker)
    destination.process.send_signal(signal.SIGSTOP)  # device state cannot load
    giver = send(host, source, uri, "--timeout", 3)
    code, said = finish(giver)
    destination.process.send_signal(signal.SIGCONT)
    assert code == 3 and "within 3 s" in said, (code, said)
    assert_runs(source)


def a_vmm_that_dies_before_the_hand_over_ends_both_sides(host):
    source, destination = two_vmms(host)
    taker = receive(host, destination)
    uri = listening_uri(taker)
    destination.process.kill()
    code, said = finish(taker)
    assert code == 1 and "ended" in said, (code, said)
    code, said = finish(send(host, source, uri))
    assert code == 1, (code, said)
    assert_runs(source)


def keep_leaves_the_source_frozen(host):
    source, destination = two_vmms(host)
    taker = receive(host, destination)
    giver = send(host, source, listening_uri(taker), "--keep")
    assert finish(giver)[0] == 0 and finish(taker)[0] == 0
    assert source.status() == "frozen"
    assert destination.status() == "running"


def check_says_what_is_missing_and_exits_with_1(host):
    path = host.name("json")
    host.need(2 * M, 0)
    host.need(G, 0)
    process = host.start(host.hugeferry, "check", "--json", path)
    code, _ = finish(process)
    assert code == 1
    with open(path, encoding="utf-8") as file:
        report = json.load(file)
    assert report["ok"] is False
    assert all(check["advice"] for check in report["checks"] if check["result"] == "FAIL")


def check_is_content_with_a_host_that_has_huge_pages(host):
    host.need(2 * M, 8)
    process = host.start(host.hugeferry, "check")
    code, said = finish(process)
    assert code == 0, said
    with open(process.out_path, encoding="utf-8") as file:
        text = file.read()
    assert "FAIL" not in text and "MINOR_HUGETLBFS is offered" in text, text


def no_socket_of_a_link_is_left(host):
    source, destination = two_vmms(host)
    path = host.name("link")
    taker = receive(host, destination, listen=f"unix:{path}")
    giver = send(host, source, listening_uri(taker))
    assert finish(giver)[0] == 0 and finish(taker)[0] == 0
    assert not os.path.exists(path)


def a_source_file_cut_short_is_told_and_kills_no_agent(host):
    source, destination, taker, giver, relay = start_held(host)
    os.truncate(source.ram, 256 * M)
    taker.send_signal(signal.SIGUSR1)
    relay.pages_open.set()
    code, said = finish(giver)
    assert code == 4, (code, said)
    # A page that goes while its bytes are being sent is told by the channel, which knows no pages.
    assert len(said.splitlines()) == 1 and ("cut to 256 MiB" in said or "cut short" in said), said
    code, said = finish(taker)
    assert code == 4 and len(said.splitlines()) == 1, (code, said)
    assert destination.status() == "running"


CASES = [
    a_source_file_cut_short_is_told_and_kills_no_agent,
    a_receiver_that_dies_after_the_hand_over_never_revives_the_source,
    a_sender_that_dies_after_the_hand_over_leaves_the_vm_at_the_destination,
    a_receiver_that_dies_before_the_hand_over_leaves_the_source_running,
    signals_after_the_hand_over_are_refused_and_the_move_ends_well,
    a_signal_at_any_moment_leaves_exactly_one_running,
    a_time_limit_cancels_and_the_source_runs_on,
    a_vmm_that_dies_before_the_hand_over_ends_both_sides,
    keep_leaves_the_source_frozen,
    check_says_what_is_missing_and_exits_with_1,
    check_is_content_with_a_host_that_has_huge_pages,
    no_socket_of_a_link_is_left,
]
