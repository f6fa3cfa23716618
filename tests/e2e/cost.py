# SPDX-License-Identifier: Apache-2.0
"""What a move costs the two programs: no allocation while pages travel, and little memory."""
import os
import signal

from host import M, Vmm, assert_whole, err_of, finish, listening_uri, receive, send, wait_until

MEM = 512 * M
PAGE = 2 * M
# ARCHITECTURE.md, "Memory overhead": per page of guest memory, and once.
DESTINATION_PAGE_BYTES, SOURCE_PAGE_BYTES = 9, 1
DESTINATION_KIB, SOURCE_KIB = 24 << 10, 8 << 10
STAGING_KIB = 32 << 10


def watched(host):
    path = host.name("watch")

    def preload():
        os.putenv("LD_PRELOAD", host.watch)
        os.putenv("HF_WATCH", path)
    return path, preload


def fields(path):
    with open(path, encoding="utf-8") as file:
        return {name: value.strip() for name, value in (line.split(":", 1) for line in file if ":" in line)}


def kib(status, name):
    return int(status[name].split()[0])


def check_watch(path, page_bytes, constant_kib):
    seen = fields(path)
    assert seen["starts"] == "1" and int(seen["stops"]) >= 1, seen
    assert seen["calls"] == "0", f"{seen['calls']} calls took memory on the page path, the first: {seen['first']}"
    own_kib = kib(seen, "VmHWM") - kib(seen, "RssFile")
    bound_kib = constant_kib + MEM // PAGE * page_bytes // 1024
    print(f"# {own_kib} KiB of {bound_kib} KiB")
    assert own_kib <= bound_kib, f"the program took {own_kib} KiB, more than {bound_kib} KiB"


def cost(placement, transport):
    def case(host):
        host.need(PAGE, 2 * MEM // PAGE + 16)
        source = Vmm(host, mem=MEM, extra=("--fill", 70))
        destination = Vmm(host, mem=MEM, incoming=True)
        listen = "tcp:127.0.0.1:0" if transport == "tcp" else f"unix:{host.name('link')}"
        taker_path, taker_preload = watched(host)
        giver_path, giver_preload = watched(host)
        taker = receive(host, destination, "--placement", placement, "--no-background", listen=listen,
                        before_exec=taker_preload)
        giver = send(host, source, listening_uri(taker), before_exec=giver_preload)
        wait_until(lambda: destination.status() == "running", "the VM runs at the destination")
        with open(f"/proc/{taker.pid}/status", encoding="utf-8") as file:
            status = {name: value for name, value in (line.split(":", 1) for line in file)}
        huge_kib = kib(status, "HugetlbPages")
        assert huge_kib == (STAGING_KIB if placement == "copy" else MEM >> 10), huge_kib
        taker.send_signal(signal.SIGUSR1)
        assert finish(taker)[0] == 0 and finish(giver)[0] == 0, (err_of(taker), err_of(giver))
        assert_whole(host, destination)
        check_watch(taker_path, DESTINATION_PAGE_BYTES, DESTINATION_KIB)
        check_watch(giver_path, SOURCE_PAGE_BYTES, SOURCE_KIB)
    case.__name__ = f"no_allocation_and_little_memory_over_{transport}_by_{placement}"
    return case


CASES = [
    cost("continue", "tcp"),
    cost("copy", "unix"),
]
