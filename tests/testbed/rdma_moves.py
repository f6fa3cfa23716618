# SPDX-License-Identifier: Apache-2.0
"""What is particular to rdma:, on real verbs. Taking a link down is no way to lose one here: rxe of Linux 6.1 sets up no
connection any more once it is up again, whoever asks. A neighbour with a wrong address is: what is sent is lost, and the
adapter finds out by itself."""
import ctypes
import os
import resource
import signal

from control import Control
from host import (M, Vmm, assert_runs, assert_whole, err_of, finish, listening_uri, one_line, out_of, receive, send,
                  wait_until)
from machine import ADDRESS, PEER, address, said_by
from moves import demo
from recovering import Move
from recovery_by_hand import go_to, status, wait_status
from two_hosts import in_two_parts
from whole_moves import PLACEMENTS

MEM = 64 * M
LARGE = 256 * M
# Nobody waits for a page of a guest that stands: they take ten seconds once they are let.
HELD = ("--no-background", "--max-postcopy-bandwidth", "24M")
RECOVER = ("--recover-timeout", 120)
PR_CAPBSET_DROP, CAP_IPC_LOCK = 24, 14


def from_rdma_to_tcp_and_back_nothing_is_lost(host):
    move = Move(host, mem=MEM, control=True, listen=address("rdma"), receive_options=["--no-background"])
    move.begin_held()
    out, into = (Control(path) for path in move.paths)
    wait_status(into, "postcopy-active")
    for number, scheme in enumerate(("tcp", "rdma", "rdma", "tcp", "rdma")):
        assert (out, into)[number % 2].execute("migrate-pause") == {}
        for control in (out, into):
            wait_until(lambda control=control: status(control) != "postcopy-active", "it is paused", 60)
        go_to(move, out, into, address(scheme))
    move.let_run()
    move.complete()


def let_pages_come(taker):
    """Of a guest that stands still."""
    taker.send_signal(signal.SIGUSR1)


def programs_killed_while_pages_come_are_started_again(placement):
    def case(host):
        move = Move(host, mem=LARGE, listen=address("rdma"), placement=placement, receive_options=HELD)
        move.begin_held()
        for which, other in (("receive", "send"), ("send", "receive")):
            let_pages_come(move.taker)
            move.kill(which)
            move.start(which)
            wait_until(lambda other=other: move.goes_on(other) or move.ended(), "it goes on", 120)
        move.let_run()
        move.complete()
    case.__name__ = f"programs_killed_while_pages_come_are_started_again_by_{placement}"
    return case


def two_vms(host):
    host.need(2 * M, 2 * MEM // (2 * M) + 32)
    return Vmm(host, mem=MEM), Vmm(host, incoming=True, mem=MEM)


def the_demo_runs_over_rdma(host):
    report = demo(host, "--mem", "64M", "--listen", address("rdma", port=0))
    assert report["transport"] == "rdma" and report["verified"] is True, report


def moves_with(host, wishes):
    source, destination = two_vms(host)
    taker = receive(host, destination, listen=address("rdma"))
    for process in (send(host, source, f"{listening_uri(taker)}?{wishes}"), taker):
        code, said = finish(process)
        assert code == 0, (wishes, code, said)
    assert_runs(destination)
    assert_whole(host, destination)


def gid_of_link0():
    """The GID of link0's address, as the connection manager takes it: RoCE v2 has the greater index."""
    mapped = "0000:0000:0000:0000:0000:ffff:" + "{:02x}{:02x}:{:02x}{:02x}".format(*map(int, ADDRESS.split(".")))
    folder = "/sys/class/infiniband/rxe0/ports/1/gids"
    def content(index):
        with open(os.path.join(folder, index), encoding="ascii") as file:
            return file.read().strip()
    return max(int(index) for index in os.listdir(folder) if content(index) == mapped)


def what_is_asked_of_the_way_is_had(host):
    moves_with(host, f"mtu=1024&tos=104&gid-index={gid_of_link0()}")


def is_refused(host, source, taker, wish, why):
    code, said = finish(send(host, source, f"{listening_uri(taker)}?{wish}"))
    assert code in (1, 2), (code, said)
    assert why in said, said
    assert source.status() == "running"
    assert taker.poll() is None, err_of(taker)


def what_the_device_has_not_is_refused(host):
    source, destination = two_vms(host)
    taker = receive(host, destination, listen=address("rdma"))
    # Without a VLAN a frame has no priority, so rxe keeps no service level.
    for wish, why in (("gid-index=200", "has no GID 200"), ("sl=9", "over RoCE a service level is 0 to 7"),
                      ("sl=3", "the service level is 0 and not 3"),
                      ("mtu=1500", "mtu is 256, 512, 1024, 2048 or 4096")):
        is_refused(host, source, taker, wish, why)
    said_by("ip", "link", "set", "link0", "mtu", "1500")
    host.closing.append(lambda: said_by("ip", "link", "set", "link0", "mtu", "9000"))
    is_refused(host, source, taker, "mtu=4096", "is 1024 bytes")


def what_needs_to_see_reads_is_refused(host):
    source, destination = two_vms(host)
    taker = receive(host, destination, listen=address("rdma"))
    code, said = finish(send(host, source, listening_uri(taker), "--release-ram"))
    assert code == 1, (code, said)
    one_line(said, "--release-ram", "cannot be had over rdma:")
    assert source.status() == "running"


def may_lock_16_mib():
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (16 * M, 16 * M))


def without_leave_to_lock_memory_the_vm_stays_and_it_is_said_why(host):
    source, destination = two_vms(host)
    taker = receive(host, destination, listen=address("rdma"))
    code, said = finish(send(host, source, listening_uri(taker), before_exec=may_lock_16_mib))
    assert code == 1, (code, said)
    one_line(said, "64 MiB cannot be registered", "16384 KiB", "LimitMEMLOCK", "the source VM runs on")
    assert source.status() == "running"
    assert finish(taker)[0] == 1


def what_is_not_lent_is_refused(host):
    """By the source's adapter, whatever its peer asks for; and nothing is lent any more after the end."""
    host.need(2 * M, MEM // (2 * M) + 32)
    source = Vmm(host, mem=MEM)
    peer = host.start(os.path.join(host.build, "tests/testbed/bad-keys"), address("rdma"))
    giver = send(host, source, listening_uri(peer), "--channels", 8)
    code, said = finish(giver, 90)
    peer.send_signal(signal.SIGUSR1)
    assert code == 1, (code, said, out_of(peer))
    one_line(said, "the peer closed the connection", "the source VM runs on")
    code, said = finish(peer)
    assert code == 0, (code, out_of(peer), said)
    assert out_of(peer).count("remote access error") == 6, out_of(peer)
    assert_runs(source)
    assert source.errors() == 0
    assert_whole(host, source)


def silence(begin):
    """What is sent to the other host goes nowhere, and the adapter is not told."""
    wrong = ("lladdr", "02:00:00:00:00:99", "nud", "permanent") if begin else ()
    said_by("ip", "neigh", "replace" if begin else "del", PEER, *wrong, "dev", "link0")


def loses_its_link(process):
    wait_until(lambda: "the link was lost" in err_of(process) or process.poll() is not None, "it has lost its link", 120)
    assert process.poll() is None, err_of(process)


def a_silent_network_pauses_and_is_recovered_from(placement):
    """In the middle of pages."""
    def give(host, meeting):
        host.need(2 * M, LARGE // (2 * M) + 32)
        giver = send(host, Vmm(host, mem=LARGE), meeting.hear("uri"), *RECOVER)
        loses_its_link(giver)
        meeting.say("lost")
        code, said = finish(giver, 120)
        assert code == 0, said
        meeting.hear("taken")

    def take(host, meeting):
        host.need(2 * M, LARGE // (2 * M) + 32)
        destination = Vmm(host, incoming=True, mem=LARGE)
        taker = receive(host, destination, "--placement", placement, *HELD, *RECOVER, listen=address("rdma"))
        meeting.say("uri", listening_uri(taker))
        wait_until(lambda: destination.status() == "running", "the VM runs here", 60)
        destination.execute("stop")
        let_pages_come(taker)
        silence(True)
        host.closing.append(lambda: silence(False))
        loses_its_link(taker)
        meeting.hear("lost")
        host.closing.pop()()
        destination.execute("cont")
        code, said = finish(taker, 120)
        assert code == 0, said
        assert "the migration goes on" in said, said
        assert_runs(destination)
        assert destination.errors() == 0
        assert_whole(host, destination)
        meeting.say("taken")
    case = in_two_parts(give, take)
    case.__name__ = f"a_silent_network_pauses_and_is_recovered_from_by_{placement}"
    return case


CASES = [
    the_demo_runs_over_rdma,
    from_rdma_to_tcp_and_back_nothing_is_lost,
    *map(programs_killed_while_pages_come_are_started_again, PLACEMENTS),
    what_needs_to_see_reads_is_refused,
    without_leave_to_lock_memory_the_vm_stays_and_it_is_said_why,
    what_is_not_lent_is_refused,
    what_is_asked_of_the_way_is_had,
    what_the_device_has_not_is_refused,
]
OF_TWO_HOSTS = [*map(a_silent_network_pauses_and_is_recovered_from, PLACEMENTS)]
