# SPDX-License-Identifier: Apache-2.0
"""What one page costs on a link: measured, predicted, and refused where it is too much."""
import contextlib
import json
import re
import socket
import threading
import time

from host import G, M, Vmm, assert_runs, err_of, finish, listening_uri, one_line, receive, send, wait_until


def check(host, uri, *extra):
    path = host.name("json")
    process = host.start(host.hugeferry, "check", "--to", uri, "--json", path, *extra)
    code, said = finish(process)
    with open(path, encoding="utf-8") as file:
        return code, said, json.load(file)["checks"]


def named(findings, name):
    return [finding for finding in findings if finding["name"] == name]


def a_receiver_that_waits_can_be_checked_and_used_afterwards(host):
    host.need(2 * M, 300)
    source, destination = Vmm(host), Vmm(host, incoming=True)
    taker = receive(host, destination)
    uri = listening_uri(taker)
    for _ in range(3):
        code, said, findings = check(host, uri)
        assert code == 0 and not said, (code, said)
        assert re.search(r"[0-9.]+ [GM]B/s, round trip [0-9.]+ ms", named(findings, "link")[0]["detail"])
        stalls = "".join(finding["detail"] for finding in named(findings, "page stall"))
        for size, name in ((2 * M, "2 MiB"), (G, "1 GiB")):
            assert (f"a page of {name}" in stalls) == host.offers(size), stalls
    assert destination.status() == "inmigrate"
    assert err_of(taker).count("the link was checked") == 3
    giver = send(host, source, uri)
    assert finish(giver)[0] == 0 and finish(taker)[0] == 0
    assert destination.status() == "running"


def a_check_warns_of_what_the_destination_would_refuse(host):
    host.need_size(G)
    host.need(2 * M, 150)
    taker = receive(host, Vmm(host, incoming=True), "--max-page-stall", 1)
    code, _, findings = check(host, listening_uri(taker), "--max-page-stall", 3600000)
    assert code == 0
    large = [finding for finding in named(findings, "page stall") if "1 GiB" in finding["detail"]]
    assert large[0]["result"] == "warn" and "more than 1.00 ms" in large[0]["detail"], large


def nobody_there_fails_the_check(host):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        code, _, findings = check(host, f"tcp:127.0.0.1:{unused.getsockname()[1]}")
    assert code == 1
    assert named(findings, "link")[0]["result"] == "FAIL"


class SlowLink:
    """Passes bytes on, so many a second in all."""

    def __init__(self, uri, bytes_per_s):
        host, port = uri.removeprefix("tcp:").rsplit(":", 1)
        self.to, self.bytes_per_s, self.sockets = (host, int(port)), bytes_per_s, []
        self.free_at, self.lock = 0.0, threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near = self.listener.accept()[0]
                far = socket.create_connection(self.to)
            except OSError:
                return
            self.sockets += [near, far]
            for one, other in ((near, far), (far, near)):
                for end in (one, other):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
                threading.Thread(target=self.carry, args=(one, other), daemon=True).start()

    def carry(self, one, other):
        try:
            while piece := one.recv(16384):
                with self.lock:
                    self.free_at = max(self.free_at, time.monotonic()) + len(piece) / self.bytes_per_s
                    wait = self.free_at - time.monotonic()
                time.sleep(max(0, wait))
                other.sendall(piece)
        except OSError:
            pass
        for end in (one, other):
            end.close()

    def close(self):
        self.listener.close()
        for end in self.sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def a_page_that_takes_too_long_is_refused_by_either_operator(host):
    host.need(2 * M, 300)
    source, destination = Vmm(host), Vmm(host, incoming=True)
    for here, there in ((["--max-page-stall", 20], []), ([], ["--max-page-stall", 20])):
        taker = receive(host, destination, *there)
        link = SlowLink(listening_uri(taker), 16 << 20)
        giver = send(host, source, link.uri, *here)
        for process in (giver, taker):
            code, said = finish(process)
            assert code == 1, (code, said)
            refusal = [line for line in said.splitlines() if "warning:" not in line]
            one_line("\n".join(refusal), "ram0", "2 MiB", "the limit is 20.0 ms", "--max-page-stall")
        link.close()
        assert destination.status() == "inmigrate"
        assert_runs(source)


def a_slow_link_is_warned_of_on_both_sides(host):
    host.need(2 * M, 300)
    source, destination = Vmm(host), Vmm(host, incoming=True)
    taker = receive(host, destination, "--chunk-size", "64K")
    link = SlowLink(listening_uri(taker), 1 << 20)
    try:
        giver = send(host, source, link.uri)
        for process in (giver, taker):
            wait_until(lambda said=process: "warning: a thread that needs a page of 2 MiB" in err_of(said),
                       "the warning")
    finally:
        link.close()


CASES = [
    a_receiver_that_waits_can_be_checked_and_used_afterwards,
    a_check_warns_of_what_the_destination_would_refuse,
    nobody_there_fails_the_check,
    a_page_that_takes_too_long_is_refused_by_either_operator,
    a_slow_link_is_warned_of_on_both_sides,
]
