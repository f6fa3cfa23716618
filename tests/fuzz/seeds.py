#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Makes inputs that fuzzing starts from: seeds.py DIRECTORY. Each target gets a folder of its name in it.

The corpora beside this file grew from these: run this, fuzz, and keep the smallest set that covers the same (HACKING.md).
"""
import os
import sys

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../golden/wire")
ZERO = b"\0"


def golden(name):
    with open(os.path.join(GOLDEN, name + ".hex"), encoding="utf-8") as file:
        return bytes(int(word, 16) for line in file for word in line.split("#")[0].split())


def wire():
    kinds = ["hello_control", "hello_reply_accepted", "frame_header", "advise", "ready", "wish", "presence",
             "device_end", "finish", "fail", "request", "reply"]
    for number, kind in enumerate(kinds):
        yield kind, bytes([number]) + golden(kind)
    for number, other in [(0, "hello_background"), (1, "hello_reply_refused"), (11, "reply_zero")]:
        yield other, bytes([number]) + golden(other)


# Events of destination.c, and messages by their type less 1. Zeros are answers of ports: all goes well.
TIME, MESSAGE, LINK_UP, MEMORY_READY, FAULT, WORK, LANDED, VM_DONE, OPERATOR, LINK_DOWN = range(10)
ADVISE, READY, PRESENCE, DEVICE, DEVICE_END, LOADED, RUN, RESUMED, COMPLETE, FINISH, FAIL, WISH = range(12)


def destination():
    def said(kind, detail=0):
        return bytes([MESSAGE, kind, detail]) + 24 * ZERO

    start = bytes([LINK_UP]) + said(ADVISE, 1) + bytes([MEMORY_READY]) + 4 * ZERO
    mapped = said(PRESENCE, 0x0b) + said(PRESENCE, 5) + said(DEVICE, 5) + said(DEVICE_END)
    faults = bytes([FAULT, 1, 0]) + 16 * ZERO + bytes([FAULT, 2, 1]) + 16 * ZERO
    landed = (bytes([LANDED]) + 9 * ZERO + bytes([WORK, 0]) + 6 * ZERO + bytes([WORK, 1]) + 6 * ZERO) * 24
    run = bytes([VM_DONE]) + 4 * ZERO + said(RUN) + bytes([VM_DONE]) + 12 * ZERO
    for shape in range(4):
        head = bytes([shape, 0x0f, 2, 0, 0, 0, 0, 0])
        yield f"whole-{shape}", head + start + mapped + faults + run + landed + said(FINISH)
    head = bytes([0, 0, 1, 2, 3, 0, 1, 0])
    yield "wish", head + bytes([LINK_UP]) + said(WISH, 1) + (start + mapped)[1:] + run + landed
    yield "cut", head + start + mapped + faults + run + landed[:100] + bytes([LINK_DOWN, 1, FAULT, 3, 0])
    yield "source-fails", head + start + mapped + faults + said(FAIL)
    yield "cancelled", head + start + bytes([OPERATOR, 0x80])


def big(value, size):
    return value.to_bytes(size, "big")


def devstate():
    """Blobs of devstate.c's device, without the checksum it adds."""
    def part(kind, limit):
        return big(1, 4) + big(kind, 1) + big(limit, 2) + ZERO

    def device(version, in_use, parts, extra):
        content = (big(in_use, 4) + big(0xfee00000, 8) + b"\1\2" * in_use + b"name-of-9" + big(parts, 4) +
                   part(1, 2) * parts + part(3, 4) + (big(5, 4) if version > 2 else b""))
        more = big(2, 4) + big(9, 4) + big(7, 8) + ZERO
        content += b"\1" + b"\x0cdevice/extra" + more if extra else ZERO
        return big(version, 4) + big(len(content), 4) + content

    def blob(*sections):
        body = b"".join(b"\6device" + big(instance, 4) + content for instance, content in sections)
        return b"\0HFDEVICE" + big(1, 4) + big(len(sections), 4) + big(0, 8) + body

    yield "devices", blob((0, device(3, 5, 4, True)), (7, device(3, 0, 0, False)))
    yield "older", blob((7, device(2, 1, 1, False)), (0, device(1, 2, 0, True)))
    yield "twice", blob((0, device(3, 1, 1, False)), (0, device(3, 1, 1, False)))
    yield "too-many", blob((0, device(3, 6, 1, False)), (7, device(4, 1, 5, False)))
    yield "checksum", b"\2" + blob((0, device(3, 1, 1, False)))[1:]


def options():
    """Each choice of options.c: four subcommands, the VMM, then URIs, sizes, paths."""
    yield "send", b"\0--vm\0qmp:/run/a\0--to\0tcp:b:4444\0--placement=copy\0--timeout\0005\0--keep\0--channels\0004"
    yield "receive", b"\1--vm\0/run/a\0--listen\0unix:/run/l\0--attach\0/run/b\0--chunk-size\00064K\0--no-background"
    yield "check", b"\2--json\0/tmp/r\0--help"
    yield "demo", (b"\3--mem\0001G\0--page-size\0002M\0--vcpus\0003\0--transport\0unix\0--pattern\0hot\0--write-share"
                   b"\00050\0--fill\00090\0--seed\00018446744073709551615\0--demand-only-seconds\0002\0"
                   b"--keep-going-seconds\0002\0--compare\0--vmm\0/x")
    yield "vmm", (b"\4--mem\0004G\0--page-size\0002M\0--ram-file\0/dev/hugepages/r\0--qmp\0unix:/run/q\0--vcpus\0002\0--id\0r"
                  b"\0--name\0n\0--attach\0/run/a\0--incoming\0defer\0--pattern\0hot\0--write-share\00010\0--fill\0009\0"
                  b"--seed\0001\0--die-with-parent")
    for number, uri in enumerate([b"tcp:host:4444", b"tcp:[::1]:0", b"tcp::65535", b"unix:/run/x", b"rdma:x", b"tcp:a:b:1"]):
        yield f"uri-{number}", b"\5" + uri
    for number, size in enumerate([b"4096", b"64K", b"16777215T", b"18446744073709551616", b"1X"]):
        yield f"size-{number}", b"\6" + size
    yield "path", b"\7qmp:/run/x"


SEEDS = {"wire": wire, "destination": destination, "devstate": devstate, "options": options}


def main():
    for target, seeds in SEEDS.items():
        folder = os.path.join(sys.argv[1], target)
        os.makedirs(folder, exist_ok=True)
        for name, data in seeds():
            with open(os.path.join(folder, name), "wb") as file:
                file.write(data)


if __name__ == "__main__":
    main()
