# SPDX-License-Identifier: Apache-2.0
"""A migration is looked at and steered over its control sockets while it runs."""
import contextlib
import json
import os
import signal
import stat
import threading

from host import (G, M, Qmp, Vmm, assert_runs, assert_whole, err_of, finish, listening_uri, one_line, receive, send,
                  wait_until)
from messages import RUN
from relay import Relay

WAY = ["setup", "active", "device", "postcopy-active", "completed"]


class Refused(Exception):
    pass


class Control(Qmp):
    """Remembers the MIGRATION events that come between answers."""

    def __init__(self, path):
        self.statuses = []
        super().__init__(path)

    def read(self):
        """The next answer; None when an event came instead, False at the end."""
        line = self.file.readline()
        if not line:
            return False
        message = json.loads(line)
        if "event" not in message:
            return message
        assert message["event"] == "MIGRATION" and message["timestamp"]["seconds"] > 0, message
        self.statuses.append(message["data"]["status"])
        return None

    def ask(self, command, **arguments):
        self.write({"execute": command, "arguments": arguments})

    def answer(self):
        while (message := self.read()) is None:
            pass
        assert message, "the program ended instead of answering"
        if "error" in message:
            raise Refused(message["error"]["class"], message["error"]["desc"])
        return message["return"]

    def execute(self, command, **arguments):
        self.ask(command, **arguments)
        return self.answer()

    def wait_for(self, status):
        while status not in self.statuses:
            assert self.read() is None, f"{status} was expected after {self.statuses}"

    def wait_end(self):
        with contextlib.suppress(ConnectionError):
            while self.read() is None:
                pass


def refusal(control, command, **arguments):
    try:
        control.execute(command, **arguments)
    except Refused as refused:
        return refused.args
    raise AssertionError(f"{command} was not refused")


class Watched:
    """A migration whose sides both have a client from before the first event on."""

    def __init__(self, host, mem, *options):
        host.need(2 * M, 2 * mem // (2 * M) + 64)
        self.source, self.destination = Vmm(host, mem=mem), Vmm(host, incoming=True, mem=mem)
        self.paths = host.name("send-qmp"), host.name("receive-qmp")
        self.taker = receive(host, self.destination, "--qmp", f"unix:{self.paths[1]}", *options)
        self.relay = Relay("tcp:127.0.0.1:0", listening_uri(self.taker))
        host.closing.append(self.relay.close)
        self.relay.stop_before = RUN if "--no-background" in options else None
        self.into = Control(self.paths[1])
        # Until the receiver goes on, the sender waits for its first answer.
        self.taker.send_signal(signal.SIGSTOP)
        self.giver = send(host, self.source, self.relay.uri, "--keep", "--qmp", f"unix:{self.paths[0]}")
        wait_until(lambda: os.path.exists(self.paths[0]), "send has its socket")
        self.out = Control(self.paths[0])

    def go(self):
        self.taker.send_signal(signal.SIGCONT)

    def stop_destination(self):
        """The VM has run there and waited for a page; from now on no thread asks for one."""
        self.relay.give_up_within(256 * M)  # not all of it, however late this stops it
        self.into.wait_for("postcopy-active")
        wait_until(lambda: self.destination.status() == "running", "the VM runs at the destination")
        wait_until(lambda: sum(self.into.execute("query-migrate")["postcopy-latency-dist"]), "a page was waited for")
        client = Qmp(self.destination.qmp_path)
        client.execute("stop")
        client.close()
        self.relay.pages_open.set()


def continue_vm(vmm):
    client = Qmp(vmm.qmp_path)
    client.execute("cont")
    client.close()


def check_info(info, side, mem):
    assert info["status"] == "postcopy-active" and "error-desc" not in info and "downtime" not in info, info
    ram = info["ram"]
    assert ram["total"] == mem and ram["page-size"] == 2 * M
    assert 0 < ram["remaining"] < mem, ram
    assert isinstance(info["total-time"], int) and info["hugeferry"]["total_time_ns"] > 0
    assert info["hugeferry"]["side"] == side and info["hugeferry"]["status"] == info["status"]


def check_blocktime(info):
    assert len(info["postcopy-vcpu-blocktime"]) == len(info["postcopy-vcpu-latency"]) == 2
    assert info["postcopy-blocktime"] <= min(info["postcopy-vcpu-blocktime"]) + 1
    assert sum(info["postcopy-latency-dist"]) == info["hugeferry"]["fault_latency"]["count"] > 0
    assert info["postcopy-latency"] > 1000  # ns


def both_sides_answer_while_it_runs_and_refuse_to_cancel_after_the_hand_over(host):
    move = Watched(host, G, "--no-background")
    for path in move.paths:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert move.out.execute("query-migrate") == {}  # before there is a link
    move.go()
    move.stop_destination()
    move.out.wait_for("postcopy-active")
    into, out = move.into.execute("query-migrate"), move.out.execute("query-migrate")
    check_info(into, "destination", G)
    check_info(out, "source", G)
    check_blocktime(into)
    assert into["ram"]["normal"] + into["ram"]["duplicate"] == into["hugeferry"]["pages_received"]
    for control, whose in ((move.out, "too late to cancel: the VM has been given to the destination"),
                           (move.into, "too late to cancel")):
        error, why = refusal(control, "migrate_cancel")
        assert error == "GenericError" and whose in why, (error, why)
        assert refusal(control, "query-status")[0] == "CommandNotFound"
        assert control.execute("query-migrate")["status"] == "postcopy-active"
    assert refusal(move.into, "migrate-start-postcopy")[0] == "CommandNotFound"
    assert move.out.execute("migrate-start-postcopy") == {}  # it has started: nothing happens
    move.taker.send_signal(signal.SIGUSR1)
    for control in (move.out, move.into):
        control.wait_end()
        assert control.statuses == WAY, control.statuses
    assert finish(move.giver)[0] == 0 and finish(move.taker)[0] == 0, (err_of(move.giver), err_of(move.taker))
    assert not any(os.path.exists(path) for path in move.paths)
    continue_vm(move.destination)
    assert_runs(move.destination)
    assert_whole(host, move.destination)


def a_migration_is_cancelled_over_the_senders_socket(host):
    move = Watched(host, 256 * M)
    move.out.ask("migrate_cancel")
    move.go()
    assert move.out.answer() == {}
    assert finish(move.giver)[0] == 3 and finish(move.taker)[0] != 0
    for control in (move.out, move.into):
        control.wait_end()
        assert control.statuses and control.statuses[-1] in ("cancelled", "failed"), control.statuses
    assert move.out.statuses[-1] == "cancelled"
    assert_runs(move.source)


def a_receiver_without_a_peer_is_cancelled_over_its_socket(host):
    host.need(2 * M, 150)
    destination, path = Vmm(host, incoming=True), host.name("qmp")
    taker = receive(host, destination, "--qmp", f"unix:{path}")
    listening_uri(taker)
    control = Control(path)
    assert control.execute("query-migrate") == {}  # as QEMU says while nothing has come in
    assert control.execute("migrate_cancel") == {}
    code, said = finish(taker)
    assert code == 3
    one_line(said, "cancelled while waiting for a peer")
    assert destination.status() == "inmigrate" and not os.path.exists(path)


def a_control_socket_in_use_is_refused_before_anything_stops(host):
    host.need(2 * M, 300)
    source, destination = Vmm(host), Vmm(host, incoming=True)
    taker = receive(host, destination)
    code, said = finish(send(host, source, listening_uri(taker), "--qmp", f"unix:{source.qmp_path}"))
    assert code == 1
    one_line(said, source.qmp_path, "in use")
    assert_runs(source)


def clients_that_ask_without_end_and_leave_disturb_nothing(host):
    move = Watched(host, 512 * M)
    asked, over = [0], threading.Event()

    def flood(path):
        while not over.is_set():
            try:
                client = Control(path)
                client.socket.sendall(b'{"execute": "query-migrate"}\n' * 200)
                asked[0] += 1
                client.answer()
                client.close()  # most answers are never read
            except (OSError, ValueError, AssertionError):
                return  # the program has ended

    threads = [threading.Thread(target=flood, args=[path], daemon=True) for path in move.paths for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: asked[0] > 8, "clients ask")
    move.go()
    assert finish(move.giver)[0] == 0 and finish(move.taker)[0] == 0, (err_of(move.giver), err_of(move.taker))
    over.set()
    for control in (move.out, move.into):
        control.wait_end()
        assert control.statuses == WAY, control.statuses
    assert_runs(move.destination)
    assert_whole(host, move.destination)


CASES = [
    both_sides_answer_while_it_runs_and_refuse_to_cancel_after_the_hand_over,
    a_migration_is_cancelled_over_the_senders_socket,
    a_receiver_without_a_peer_is_cancelled_over_its_socket,
    a_control_socket_in_use_is_refused_before_anything_stops,
    clients_that_ask_without_end_and_leave_disturb_nothing,
]
