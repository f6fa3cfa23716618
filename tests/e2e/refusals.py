# SPDX-License-Identifier: Apache-2.0
"""Moves that must not happen: one clear line on each side, and the source VM runs on."""
import contextlib
import json
import signal
import socket
import threading

from host import G, M, Qmp, Vmm, assert_runs, err_of, finish, listening_uri, one_line, receive, send, wait_until


def two_vmms(host, **destination):
    host.need(2 * M, 2048)
    return Vmm(host), Vmm(host, incoming=True, **destination)


def refused_by_both(host, source, destination, *parts, options=(), before_exec=None):
    """Each side says it in one line; the source VM runs on, the waiting VMM can be used for another try."""
    taker = receive(host, destination, *options, before_exec=before_exec)
    giver = send(host, source, listening_uri(taker))
    for process in (giver, taker):
        code, said = finish(process)
        assert code == 1, (code, said)
        one_line(said, *parts)
    assert "the source VM runs on" in err_of(giver)
    assert "still in inmigrate" in err_of(taker)
    assert destination.status() == "inmigrate"
    assert_runs(source)


def page_sizes_that_differ_are_refused_by_name(host):
    host.need(2 * M, 1100)
    host.need(G, 1)
    source = Vmm(host, mem=G)
    destination = Vmm(host, incoming=True, mem=G, page_size=G)
    refused_by_both(host, source, destination, "ram0", "2 MiB", "1 GiB")


def lengths_that_differ_are_refused_by_name(host):
    source, destination = two_vmms(host, mem=512 * M)
    refused_by_both(host, source, destination, "ram0", "256 MiB", "512 MiB")


def a_block_of_another_name_is_refused_by_name(host):
    source, destination = two_vmms(host, ident="mem7")
    refused_by_both(host, source, destination, "ram0")


def moves(host, source, destination, *options):
    taker = receive(host, destination, *options)
    giver = send(host, source, listening_uri(taker))
    assert finish(giver) == (0, "") and finish(taker) == (0, "")
    assert destination.status() == "running"


def a_destination_that_was_refused_can_be_used_again(host):
    source, destination = two_vmms(host, mem=512 * M)
    refused_by_both(host, source, destination, "ram0")
    moves(host, Vmm(host, mem=512 * M), destination)


def placements_asked_for_differently_are_refused(host):
    source, destination = two_vmms(host)
    taker = receive(host, destination, "--placement", "continue")
    giver = send(host, source, listening_uri(taker), "--placement", "copy")
    for process in (giver, taker):
        code, said = finish(process)
        assert code == 1, (code, said)
        one_line(said, "copy", "continue")
    assert_runs(source)


def two_sends_at_once_move_a_vm_once(host):
    source, one = two_vmms(host)
    other = Vmm(host, incoming=True)
    takers = [receive(host, one), receive(host, other)]
    givers = [send(host, source, listening_uri(taker)) for taker in takers]
    codes = sorted(finish(giver)[0] for giver in givers)
    assert codes == [0, 1], (codes, [err_of(giver) for giver in givers])
    # Which of its locks stops the second is a matter of the moment.
    one_line("".join(err_of(giver) for giver in givers), "another program")
    wait_until(lambda: "running" in (one.status(), other.status()), "one of them runs")
    assert sorted((one.status(), other.status())) == ["inmigrate", "running"]


def a_vm_that_is_still_being_received_cannot_be_sent(host):
    host.need(2 * M, 3 * 1024)
    source, middle = Vmm(host, mem=2 * G), Vmm(host, incoming=True, mem=2 * G)
    last = Vmm(host, incoming=True, mem=2 * G)
    first_taker, last_taker = receive(host, middle, "--no-background"), receive(host, last)
    first = send(host, source, listening_uri(first_taker))
    wait_until(lambda: middle.status() == "running", "the VM runs in the middle")
    code, said = finish(send(host, middle, listening_uri(last_taker)))
    assert code == 1
    one_line(said, "ram0", "still being received")
    first_taker.send_signal(signal.SIGUSR1)
    assert finish(first)[0] == 0 and finish(first_taker)[0] == 0
    assert_runs(middle)


def too_few_huge_pages_for_staging_are_counted(host):
    source, destination = two_vmms(host)
    host.need(2 * M, 3)
    copy = "--placement", "copy"
    refused_by_both(host, source, destination, "2 MiB", "16 needed", "3 available", "13", options=copy)
    host.need(2 * M, 16)
    moves(host, source, destination, *copy)


def an_address_of_no_known_scheme_is_a_usage_error(host):
    source, destination = two_vmms(host)
    for uri in ("carrier:pigeon", "tcp:127.0.0.1", "tcp:127.0.0.1:99999", "unix:"):
        for process in (send(host, source, uri), receive(host, destination, listen=uri)):
            code, said = finish(process)
            assert code == 2, (code, said)
            one_line(said, uri)
    assert_runs(source)
    assert destination.status() == "inmigrate"


def a_port_nobody_listens_on_is_named(host):
    source, _ = two_vmms(host)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        uri = f"tcp:127.0.0.1:{bound.getsockname()[1]}"
        code, said = finish(send(host, source, uri))
    assert code == 1
    one_line(said, uri)
    assert_runs(source)


def a_port_in_use_is_named(host):
    _, destination = two_vmms(host)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        uri = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
        code, said = finish(receive(host, destination, listen=uri))
    assert code == 1
    one_line(said, uri, "in use")


def a_unix_socket_in_use_is_named(host):
    _, destination = two_vmms(host)
    path = host.name("link")
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(path)
        taken.listen()
        code, said = finish(receive(host, destination, listen=f"unix:{path}"))
    assert code == 1
    one_line(said, path, "in use")


def answer_once(listener, reply):
    def serve():
        peer, _ = listener.accept()
        with peer, contextlib.suppress(ConnectionError):
            peer.sendall(reply)
            while peer.recv(4096):
                pass
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


def a_server_that_is_not_hugeferry_is_refused(host):
    source, _ = two_vmms(host)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        uri = f"tcp:127.0.0.1:{listener.getsockname()[1]}"
        answer_once(listener, b"HTTP/1.1 400 Bad Request\r\nServer: something else\r\n\r\n" + b"x" * 200)
        code, said = finish(send(host, source, uri))
    assert code == 1
    one_line(said, uri, "Hugeferry")
    assert_runs(source)


def a_silent_server_is_given_up_in_time(host):
    source, _ = two_vmms(host)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        uri = f"tcp:127.0.0.1:{listener.getsockname()[1]}"
        code, said = finish(send(host, source, uri, "--timeout", 2), 30)
    assert code == 1
    one_line(said, uri)
    assert_runs(source)


def strangers_are_reported_and_the_next_peer_is_served(host):
    source, destination = two_vmms(host)
    taker = receive(host, destination)
    uri = listening_uri(taker)
    address = (uri.split(":")[1], int(uri.split(":")[2]))
    for number, words in enumerate((b"GET / HTTP/1.0\r\nHost: x\r\n\r\n" + b" " * 100, b""), 1):
        with socket.create_connection(address) as stranger:
            stranger.sendall(words)
            stranger.shutdown(socket.SHUT_WR)
            wait_until(lambda: err_of(taker).count("a peer was refused") == number, "the refusal is reported")
        assert taker.poll() is None
    giver = send(host, source, uri)
    assert finish(giver) == (0, "")
    code, said = finish(taker)
    assert code == 0 and len(said.splitlines()) == 2, said
    assert destination.status() == "running"


def only_a_waiting_vmm_can_receive(host):
    source, _ = two_vmms(host)
    code, said = finish(receive(host, source))
    assert code == 1
    one_line(said, "running", "inmigrate")
    assert_runs(source)


def only_a_running_vm_can_be_sent(host):
    source, destination = two_vmms(host)
    code, said = finish(send(host, destination, "tcp:127.0.0.1:9"))
    assert code == 1
    one_line(said, "inmigrate", "running")
    client = Qmp(source.qmp_path)
    client.execute("stop")
    client.close()
    code, said = finish(send(host, source, "tcp:127.0.0.1:9"))
    assert code == 1
    one_line(said, "paused", "running")
    assert source.status() == "paused"


def sockets_of_two_vmms_are_not_taken_for_one(host):
    _, destination = two_vmms(host)
    other = Vmm(host, incoming=True)
    process = host.start(host.hugeferry, "receive", "--vm", f"qmp:{destination.qmp_path}",
                         "--attach", other.attach, "--listen", "tcp:127.0.0.1:0")
    code, said = finish(process)
    assert code == 1
    one_line(said, str(destination.process.pid), str(other.process.pid))


def a_socket_that_is_not_there_is_named(host):
    path = host.name("nothing")
    for process in (host.start(host.hugeferry, "send", "--vm", f"qmp:{path}", "--to", "tcp:127.0.0.1:9"),
                    host.start(host.hugeferry, "receive", "--vm", f"qmp:{path}", "--attach", path,
                               "--listen", "tcp:127.0.0.1:0")):
        code, said = finish(process)
        assert code == 1
        one_line(said, path)


def a_failed_side_writes_its_report(host):
    source, destination = two_vmms(host, mem=512 * M)
    paths = host.name("json"), host.name("json")
    taker = receive(host, destination, "--json", paths[0])
    giver = send(host, source, listening_uri(taker), "--json", paths[1])
    finish(giver), finish(taker)
    for path in paths:
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
        assert report["status"] == "failed" and "ram0" in report["error"]["text"], report
    assert_runs(source)


CASES = [
    page_sizes_that_differ_are_refused_by_name,
    lengths_that_differ_are_refused_by_name,
    a_block_of_another_name_is_refused_by_name,
    a_destination_that_was_refused_can_be_used_again,
    placements_asked_for_differently_are_refused,
    two_sends_at_once_move_a_vm_once,
    a_vm_that_is_still_being_received_cannot_be_sent,
    too_few_huge_pages_for_staging_are_counted,
    an_address_of_no_known_scheme_is_a_usage_error,
    a_port_nobody_listens_on_is_named,
    a_port_in_use_is_named,
    a_unix_socket_in_use_is_named,
    a_server_that_is_not_hugeferry_is_refused,
    a_silent_server_is_given_up_in_time,
    strangers_are_reported_and_the_next_peer_is_served,
    only_a_waiting_vmm_can_receive,
    only_a_running_vm_can_be_sent,
    sockets_of_two_vmms_are_not_taken_for_one,
    a_socket_that_is_not_there_is_named,
    a_failed_side_writes_its_report,
]
