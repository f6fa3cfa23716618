#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Makes inputs that fuzzing starts from: seeds.py DIRECTORY. Each target gets a folder of its name in it.

The corpora beside this file hold these, under their names, and a few more that fuzzing found (HACKING.md).
"""
import json
import os
import sys

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../golden/wire")
ZERO = b"\0"


def golden(name):
    with open(os.path.join(GOLDEN, name + ".hex"), encoding="utf-8") as file:
        return bytes(int(word, 16) for line in file for word in line.split("#")[0].split())


def big(value, size):
    return value.to_bytes(size, "big")


def wire():
    kinds = ["hello_control", "hello_reply_accepted", "frame_header", "advise", "ready", "wish", "presence",
             "device_end", "finish", "fail", "request", "reply", "link", "round", "round_end", "round_done", "first"]
    for number, kind in enumerate(kinds):
        yield kind, bytes([number]) + golden(kind)
    for number, other in [(0, "hello_background"), (1, "hello_reply_refused"), (11, "reply_zero"), (10, "request_probe"), (2, "frame_check")]:
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
    first = bytes([10, 20, 28]) + big(3, 4) + big(1, 8) + big(1 << 32, 8) + big(2, 8)
    named = said(PRESENCE, 0x0b) + said(PRESENCE, 5) + first + said(DEVICE, 5) + said(DEVICE_END)
    yield "first", head + start + named + faults + run + landed + said(FINISH)
    head = bytes([0, 0, 1, 2, 3, 0, 1, 0])
    yield "wish", head + bytes([LINK_UP]) + said(WISH, 1) + (start + mapped)[1:] + run + landed
    yield "cut", head + start + mapped + faults + run + landed[:100] + bytes([LINK_DOWN, 1, FAULT, 3, 0])
    yield "source-fails", head + start + mapped + faults + said(FAIL)
    yield "cancelled", head + start + bytes([OPERATOR, 0x80])
    recorded = bytes([16]) + 12 * ZERO
    loaded = start + mapped + faults + bytes([VM_DONE]) + 4 * ZERO + recorded
    given = loaded + said(RUN) + recorded + bytes([VM_DONE]) + 12 * ZERO
    again = bytes([LINK_DOWN, 1, LINK_UP]) + said(ADVISE, 1) + said(RUN)
    for shape in (4, 5):
        head = bytes([shape, 0x0f, 2, 0, 0, 0, 0, 0])
        yield f"again-{shape}", head + given + again + landed + again + said(FINISH)
    # Rounds: event 16, or 20 where the session goes on; a set of one block, or an end. Link up, while it is up, is no
    # event, and a good answer of every port.
    idle = bytes([LINK_UP])

    def event(*what):
        return bytes(what) + 5 * idle

    def named(number, pages, end=0):
        return b"".join(event(number, 0, block) for block in pages) + event(number, 1, end)

    def moved(start, number, end, more=b""):
        mapped = event(MESSAGE, PRESENCE, 0x0b) + event(MESSAGE, PRESENCE, 5) + event(MESSAGE, DEVICE, 5)
        ended = event(MESSAGE, DEVICE_END, 0) + event(FAULT, 1, 0) + come[:42] + work + event(VM_DONE) + more
        return start + named(number, [0x04], end) + mapped + ended + event(MESSAGE, RUN, 0) + more + event(VM_DONE) + work + come

    come, work = event(LANDED, 0) * 12, (event(WORK, 0) + event(WORK, 1)) * 3
    ready = event(LINK_UP) + event(MESSAGE, ADVISE, 1) + event(MEMORY_READY)
    head = bytes([8, 0, 0, 0, 0, 0, 0, 0])
    first = named(16, [0x0e, 0x85]) + come + come[:14]
    for name, end in ("rounds", 2), ("rounds-whole", 6):
        yield name, moved(head + ready + first + named(16, [0x02]) + come[:28], 16, end) + event(MESSAGE, FINISH, 0)
    cut = named(16, [0x0f]) + come[:21] + event(FAULT, 1, 0) + event(16, 1, 1) + come[:28]
    yield "rounds-cut", moved(head + ready + cut, 16, 2)
    yield "rounds-link-cut", head + ready + named(16, [0x0f]) + come[:21] + event(LINK_DOWN, 1)
    goes_on = bytes([12]) + head[1:] + ready + named(20, [0x0f]) + come + come[:28]
    yield "rounds-again", (moved(goes_on, 20, 2, event(16)) + event(LINK_DOWN, 1) + event(LINK_UP) +
                           event(MESSAGE, ADVISE, 1) + event(MESSAGE, RUN, 0) + come)
    head = bytes([5, 0x0f, 2, 0, 0, 0, 0, 0])
    yield "doubt", head + loaded + again[:3] + said(ADVISE, 1) + said(FAIL)
    yield "will-not-run", head + loaded + said(RUN) + recorded + bytes([VM_DONE, 7, 0]) + bytes([VM_DONE]) + 4 * ZERO + recorded + again


def source():
    # Its events: 0 time, 1 message, 2 link up, 3 the VMM is done, 4 a request, 5 the operator, 6 link down.
    def said(kind, detail=0):
        return bytes([1, kind, detail]) + 6 * ZERO

    done = b"\3" + 32 * ZERO
    requests = b"".join(bytes([4, block, offset, 2]) for block in (0, 1, 2) for offset in (0, 2, 8, 24))
    start = b"\2" + 12 * ZERO + said(READY) + done + done
    for shape in (0, 5, 7):
        yield f"whole-{shape}", bytes([shape, 0x5b]) + start + requests + said(LOADED) + said(RESUMED) + requests + said(COMPLETE)
    measured = b"\2" + 12 * ZERO + bytes([4, 3, 0, 2]) + bytes([1, 13, 9]) + 6 * ZERO + start[13:]
    yield "measured", bytes([8, 0x5b]) + measured + said(LOADED)
    yield "cut", bytes([0, 0x5b]) + start + said(LOADED) + b"\6\1" + requests
    yield "fails", bytes([0, 0x5b]) + start + said(FAIL) + done
    yield "cancelled", bytes([0, 0x5b]) + start[:30] + b"\5\x40" + done
    # Rounds: a round is done (12), the guest writes (13), the operator (14); link up is no event while it is up.
    def event(*what):
        return bytes(what) + 12 * b"\2"

    ready = event(2) + event(1, READY, 1)
    round_done, written = event(12, 16), bytes([13, 2, 13, 0xc1, 13, 8])
    asked = b"".join(bytes([4, block, offset, 2]) + 2 * b"\2" for block in (0, 1) for offset in (0, 8))
    ended = event(3) * 2 + 24 * b"\2" + asked + event(1, LOADED, 0) + event(3) + event(1, RESUMED, 0) + asked
    ended += event(1, COMPLETE, 0)
    for name, shape, rounds in ("rounds", 0x24, 5), ("rounds-fit", 0x20, 1), ("rounds-only", 0x64, 4):
        yield name, bytes([shape, 0x5b]) + ready + (asked + written + round_done) * rounds + round_done * (shape >> 6) + ended
    yield "rounds-cut", bytes([0x24, 0x5b]) + ready + written + event(14, 0) + round_done + ended
    yield "rounds-link-cut", bytes([0x24, 0x5b]) + ready + written + b"\6\1"
    recorded = bytes([12]) + 16 * ZERO
    given = bytes([0x10, 0x5b]) + start + requests + said(LOADED) + done + recorded
    again = b"\6\1" + b"\2" + 12 * ZERO
    yield "again", given + said(RESUMED) + again + requests + said(RESUMED) + said(COMPLETE)
    yield "handed-back", given + again + bytes([13]) + 8 * ZERO + recorded + done


def tcp_open():
    def guests(*said):  # of each: how it behaves, which hello, what is wrong with it
        return bytes([0, len(said) - 1]) + b"".join(bytes(guest) for guest in said)

    yield "whole", guests((0, 0, 0), (0, 1, 0), (0, 2, 0))
    yield "two-each", guests((0, 4, 0), (0, 6, 0), (0, 1, 0), (0, 5, 0), (0, 2, 0))
    yield "busy", guests((0, 0, 0), (0, 16, 0), (0, 1, 0), (0, 18, 0), (0, 2, 0))
    yield "twice", guests((0, 0, 0), (0, 1, 0), (0, 1, 0), (0, 2, 0))
    yield "gone", guests((2, 0, 0), (0, 1, 0), (4, 0, 0), (0, 0, 2))
    yield "stranger", bytes([6, 1, 1, 5]) + b"SSH-2" + bytes([0, 0, 0x88, 1])
    yield "accepted", bytes([1, 4, 4, 4])
    yield "accepted-two", bytes([9, 8, 0, 0, 0, 0])
    yield "refused", bytes([1, 0x10])
    yield "channel-refused", bytes([1, 4, 4, 0x20])
    yield "silent", bytes([1, 1, 0])
    yield "not-hugeferry", bytes([1, 3, 5]) + b"HTTP/"


def tcp_link():
    frames = bytes([6, 0, 4, 5]) + b"state" + bytes([7, 0, 11, 13]) + big(3, 4) + big(5, 4) + big(1, 4) + b"x"
    yield "frames", ZERO + frames
    yield "frames-in-bytes", b"\3" + frames
    yield "not-a-frame", ZERO + frames + bytes([0xe0, 8]) + big(99, 8)
    yield "stopped", ZERO + bytes([0xf6, 0]) + frames
    yield "replies", b"\1" + bytes([0x40, 1, 0x60, 1])
    yield "replies-in-bytes", b"\x1f" + bytes([0x40, 1, 0x60, 1])
    yield "too-many-replies", b"\1" + bytes([1, 1, 1, 1, 1])
    yield "wrong-reply", b"\1" + bytes([1, 3, 15, 1, 1])
    yield "half-a-page", b"\1" + bytes([1, 4, 200]) + 200 * b"x"
    yield "requests", b"\2" + bytes([0x11, 0, 5, 2, 0xf1, 9] * 12)
    yield "wrong-request", b"\2" + bytes([0x11, 0, 3, 5, 0, 1, 0x11, 0])
    yield "no-such-page", b"\x20" + bytes([0x11, 0, 0x1d, 0])


REGION = (b'{"idstr": "ram%d", "base_host_virt_addr": %d, "size": 4194304, "offset": 0, "page_size": 2097152, '
          b'"page_size_kib": 2097152, "shared": %s}')
HELLO = (b'{"return": {"version": 1, "software": "x", "vm_name": "vm", "pid": 1, "regions": [%s]}, "fds": %d}\n')


def attach_client():
    userfault = b'\1\0{"return": {"resumed": false}, "fds": 1}\n'
    release = b'\0{"return": {}, "fds": 0}\n'
    one, private = REGION % (0, 1 << 40, b"true"), REGION % (1, 1 << 41, b"false")
    yield "one", b"\1\0" + HELLO % (one, 1) + userfault + release
    yield "two", b"\2\0\1" + HELLO % (one + b", " + (REGION % (1, 1 << 41, b"true")), 2) + userfault + release
    yield "private", b"\1\0" + HELLO % (private + b", " + one, 1) + userfault + release
    yield "overlap", b"\2\0\0" + HELLO % (one + b", " + (REGION % (1, 1 << 41, b"true")), 2)
    yield "small", b"\1\2" + HELLO % (one, 1)
    yield "read-only", b"\1\4" + HELLO % (one, 1)
    for offset in (4 << 20, 6 << 20):  # the file has 8 MiB, the region 4
        moved = one.replace(b'"offset": 0', b'"offset": %d' % offset)
        yield f"offset-{offset >> 20}", b"\1\0" + HELLO % (moved, 1) + userfault
    for kind in (b"busy", b"refused", b"new"):
        yield "error-" + kind.decode(), b'\0{"error": {"class": "%s", "desc": "go away"}}\n' % kind


def attach_agent():
    hello = b'{"command": "hello", "version": 1}\n'
    release = b'{"command": "release"}\n'

    def userfault(modes, features=b""):
        return b'{"command": "userfault", "modes": [%s], "features": [%s]}\n' % (modes, features)

    yield "whole", b"\0" + hello + userfault(b'"missing", "minor"', b'"thread-id"') + release
    yield "twice", b"\x1f" + hello + userfault(b'"missing"') * 2 + userfault(b'"missing", "minor"') + release
    yield "writes", b"\0" + hello + userfault(b'"wp-async"') + userfault(b'"missing", "minor"')
    yield "refused", b"\0" + release + hello + userfault(b'"sigbus"') + userfault(b'"minor"', b'"event-fork"')
    yield "broken", b"\7" + hello + b'{"command": 3}\n[]\n{"a":\n' + release


NEGOTIATE = b'{"execute": "qmp_capabilities"}\n'


def qmp_codec():
    yield "lines", b"\3" + NEGOTIATE + b'{"execute":"stop","id":[1,{"a":null}]} [1.5e3,"\\u00e4\\""]\r\n'
    yield "broken", b'\0{"a"]\n{"b": "\n}\xff{"c": tru}\n{"d": 1}}'
    yield "deep", b"\x0f" + b"[" * 66 + b"]" * 66 + b"\n{}"
    yield "long", b"\x7f" + b'{"a": "' + b"x" * 2100 + b'"}\n{}'


def qmp_server():
    yield "session", (NEGOTIATE + b'{"execute": "query-commands", "id": 7}{"execute": "echo", "arguments": {"a": [1], "b": "x"}}'
                      b'{"execute": "refuse", "arguments": {"text": "no"}, "id": {"x": 1}}\n')
    yield "early", b'{"execute": "echo"}\n' + NEGOTIATE + NEGOTIATE
    yield "wrong", NEGOTIATE + (b'{"execute": "refuse"}{"execute": "echo", "arguments": {"c": 1}}{"execute": 3}[]{"id": 1}\n'
                                b'{"execute": "nothing", "more": 1}\n{"exec\n')


def qmp_vm():
    """What is asked, how short reads are, the greeting; then one decision for each command."""
    def returns(*values):
        return b"".join(b"\x10" + value + b"\n" if value else ZERO for value in values)

    greeting, none = b"\0", b""
    yield "vcpus", b"\0\0" + greeting + returns(none, b'[{"cpu-index": 1, "thread-id": 7}, {"cpu-index": 0, "thread-id": 9}]')
    yield "blocks", b"\1\0" + greeting + returns(none, b'[{"id": "ram0", "size": 4096, "share": true}, {"size": 1}]', b'"/x"')
    yield "status", b"\2\0" + greeting + returns(none, b'{"status": "running", "running": true}')
    capabilities = b'[{"capability": "events", "state": false}, {"capability": "x-ignore-shared", "state": false}]'
    completed, active = b'{"status": "completed"}', b'{"status": "active"}'
    yield "save", (b"\3\0" + greeting + returns(none, capabilities, none) + b"\5state" + ZERO + returns(active, completed))
    yield "save-fails", (b"\3\7" + greeting + returns(none, capabilities, none) + b"\5state" + ZERO +
                         returns(b'{"status": "failed", "error-desc": "no"}'))
    yield "load", (b"\4\0" + greeting + returns(none, capabilities, none, none) + ZERO +
                   returns(completed, b'{"status": "paused", "running": false}'))
    stopped, running = b'{"status": "paused", "running": false}', b'{"status": "running", "running": true}'
    yield "stop", b"\5\0" + greeting + ZERO + b"\1" + returns(running, none, running, stopped)
    memory = json.dumps("FlatView #0\n AS \"memory\", root: system\n  0-ffffff (prio 0, ram): ram0 @0\n").encode()
    queue = b'{"vring-num": 8, "vring-desc": 4096, "vring-avail": 8192, "vring-used": 12288}'
    yield "rings", b"\6\0" + greeting + returns(none, b'[{"path": "/x"}]', memory, b'{"num-vqs": 2}', queue, queue)
    yield "run", b"\5\0" + greeting + ZERO + b"\0" + returns(none, stopped, running)
    yield "run-event", b"\5\0" + greeting + ZERO + b"\0" + b"\x20" + returns(stopped, running)
    yield "stranger", b"\0\0\1SSH-2.0-x\n"


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
    yield "long-ring", blob((0, device(3, 6, 1, False)), (7, device(3, 1, 1, False)))
    yield "many-parts", blob((0, device(3, 1, 5, False)), (7, device(3, 1, 1, False)))
    yield "newer", blob((0, device(3, 1, 1, False)), (7, device(4, 1, 1, False)))
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


def vm_record():
    """Slots and description without checksums, which the target adds; its first byte says to which."""
    def slot(sequence, record, epoch="3"):
        return (f'{{"version": 1, "sequence": {sequence}, "record": "{record}", "epoch": "{epoch}", '
                '"written_at": "2026-01-01T00:00:00Z"').encode()

    def description(role, blocks=""):
        return (f'{{"version": 1, "role": "{role}", "vm_name": "vm1", "session": "000102030405060708090a0b0c0d0e0f", '
                '"vmm_pid": 77, "vmm_start_ticks": 5, "boot_id": "01234567-89ab-cdef-0123-456789abcdef", '
                '"qmp_target": "qmp:/run/vm", "peer_uri": "tcp:b:4444", "listen_uri": "unix:/run/l", '
                f'"placement": "continue", "chunk_bytes": 262144, "blocks": [{blocks}]').encode()

    def block(idstr):
        return f'{{"idstr": "{idstr}", "path": "/dev/hugepages/r", "length_bytes": 4194304, "page_size_bytes": 2097152}}'

    def file(right, *parts):
        return bytes([right]) + b"\n".join(parts)

    yield "outgoing", file(7, slot(1, "none"), slot(2, "given-up"), description("outgoing", block("a")))
    yield "incoming", file(7, slot(4, "running"), slot(4, "running"), description("incoming", f'{block("a")}, {block("b")}'))
    yield "torn", file(6, slot(5, "refused"), slot(4, "running", "18446744073709551615"), description("incoming"))
    yield "damaged", file(4, slot(5, "refused"), slot(4, "running"), description("incoming"))
    yield "contradiction", file(7, slot(4, "loaded"), slot(4, "running"), description("incoming"))
    yield "other-side", file(7, slot(4, "loaded"), slot(4, "loaded"), description("outgoing"))
    yield "twice", file(7, slot(1, "none"), slot(1, "none"), description("outgoing", f'{block("a")}, {block("a")}'))
    signed = slot(4, "loaded") + b', "agent_pid": 78, "agent_start_ticks": 6'
    where = '"vmm_address": 139999999688704, "file_offset_bytes": 2097152}'
    yield "taken-over", file(7, signed, signed, description("incoming", f'{block("a")[:-1]}, {where}'))
    yield "raw", b"\x08" + slot(1, "none") + b" " * 4096


def rdma_wire():
    hello = b"HFRD" + big(1, 2) + big(1, 2) + big(0x1f, 8) + bytes(range(16)) + big(1, 8)
    yield "hello-control", b"\0" + hello + bytes([0, 0, 1, 2]) + 12 * ZERO
    yield "hello-background", b"\0" + hello + bytes([2, 63, 0, 0])
    yield "header", b"\1" + big(1, 2) + big(16, 2) + big(8, 4) + 8 * ZERO
    key = big(0, 4) + big(77, 4) + big(1 << 40, 8) + big(0, 8) + big(1 << 30, 8)
    yield "keys", b"\2" + big(2, 4) + big(1, 4) + key + key
    yield "key-overflows", b"\2" + big(1, 4) + ZERO * 4 + key[:-8] + 8 * b"\xff"


TARGETS = [wire, rdma_wire, destination, source, tcp_open, tcp_link, attach_client, attach_agent, qmp_codec, qmp_server, qmp_vm,
           vm_record, devstate, options]


def main():
    for target in TARGETS:
        folder = os.path.join(sys.argv[1], target.__name__)
        os.makedirs(folder, exist_ok=True)
        for name, data in target():
            with open(os.path.join(folder, name), "wb") as file:
                file.write(data)


if __name__ == "__main__":
    main()
