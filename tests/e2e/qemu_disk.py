# SPDX-License-Identifier: Apache-2.0
"""A guest that reads its disk with O_DIRECT all the while, and checks every word of what it has read."""
import struct

from host import M, finish, one_line, send
from qemu import move
from qemu_vm import Qemu, check_guest

PAGES = 2 * 128 + 96
DISK_PAGES = 9 * M // 4096  # of which qemu_guest_devices.c reads no multiple of its buffers at once


def disk(host):
    """Every word of its page n is n + 1."""
    path = host.name("disk")
    with open(path, "wb") as file:
        for page in range(DISK_PAGES):
            file.write(struct.pack("<Q", page + 1) * 512)
    return path


def drive(path, *options):
    return ("-blockdev", ",".join(("file", "node-name=data", f"filename={path}", "read-only=on", *options)),
            "-device", "virtio-blk-pci,drive=data")


def pair(host, *options):
    host.need(2 * M, PAGES)
    extra = drive(disk(host), *options)
    return [Qemu(host, incoming=incoming, extra=extra, words=("disk",)) for incoming in (False, True)]


def refused_in_rounds(host, source):
    code, said = finish(send(host, source, "tcp:127.0.0.1:1", "--precopy", "--attach", source.attach))
    assert code == 1
    one_line(said, "'data' (file)", "cache.direct=on", "without --precopy")
    source.wait_runs()


def read_past_the_page_cache(how, placement):
    def case(host):
        source, destination = pair(host, "cache.direct=on", f"aio={how}")
        refused_in_rounds(host, source)
        move(host, source, destination, "--placement", placement)
        check_guest(source, destination)
    case.__name__ = f"a_disk_read_by_{how}_with_o_direct_loses_nothing_by_{placement}"
    return case


def read_through_the_page_cache(how):
    def case(host):
        source, destination = pair(host, f"aio={how}")
        report = move(host, source, destination, send_options=("--precopy", "--attach", source.attach))
        assert report["precopy_rounds"] > 0, report
        check_guest(source, destination)
    case.__name__ = f"rounds_while_a_disk_is_read_by_{how}_lose_nothing"
    return case


CASES = [
    read_past_the_page_cache("native", "continue"),
    read_past_the_page_cache("threads", "copy"),
    read_through_the_page_cache("threads"),
    read_through_the_page_cache("io_uring"),
]
