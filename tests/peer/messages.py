# SPDX-License-Identifier: Apache-2.0
"""The bytes of the Hugeferry protocol, version 1, written from PROTOCOL.md and nothing else.

make_* build what is sent, also when it is wrong: nothing is checked. take_* read what a peer sent and raise
Violation for anything the text forbids.
"""
import re
import struct
from types import SimpleNamespace as Record

MAGIC = b"HUGEFERY"
CONTROL, URGENT, BACKGROUND = 0, 1, 2
ACCEPTED, VERSION, BUSY, SESSION, REFUSED = range(5)
(ADVISE, READY, PRESENCE, DEVICE, DEVICE_END, LOADED, RUN, RESUMED, COMPLETE, FINISH, FAIL, WISH, CHECK,
 LINK, VM_REFUSED, PLACED) = range(1, 17)  # VM_REFUSED: the message REFUSED, which has its name from a status above
ROUND, ROUND_END, ROUND_DONE, FIRST = 17, 18, 19, 20
FEATURE_LINK, FEATURE_CHECK, FEATURE_RECOVER, FEATURE_RELEASE, FEATURE_PRECOPY = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4
FEATURE_FIRST = 1 << 5
ROUND_CUT, ROUND_FINAL, ROUND_WHOLE = 1, 2, 4
FAIL_LINK, FAIL_PEER, FAIL_LOCAL, FAIL_CANCELLED = 1, 2, 3, 4
REQUEST, REPLY = 0x48465251, 0x48465250
ZERO = 1
CHANNELS_MAX = 64
TEXT_MAX = 500
PRESENCE_PAGES_MAX = 1 << 22
DEVICE_PIECE_MAX = 1 << 20
DEVICE_TOTAL_MAX = 1 << 28
REQUEST_MAX = 1 << 26
PROBE_BLOCK = 0xffffffff
PROBE_BYTES = 1 << 21

FROM_SOURCE, FROM_DESTINATION = "source", "destination"
BOTH = (FROM_SOURCE, FROM_DESTINATION)
FRAMES = {  # type: who sends it, shortest and longest payload
    ADVISE: ((FROM_SOURCE,), 29, 70663),
    READY: ((FROM_DESTINATION,), 8, 8),
    PRESENCE: ((FROM_SOURCE,), 13, 524300),
    DEVICE: ((FROM_SOURCE,), 1, DEVICE_PIECE_MAX),
    DEVICE_END: ((FROM_SOURCE,), 8, 8),
    LOADED: ((FROM_DESTINATION,), 0, 0),
    RUN: ((FROM_SOURCE,), 0, 0),
    RESUMED: ((FROM_DESTINATION,), 0, 0),
    COMPLETE: ((FROM_DESTINATION,), 0, 0),
    FINISH: ((FROM_SOURCE,), 24, 24),
    FAIL: (BOTH, 12, 512),
    WISH: ((FROM_SOURCE,), 8, 8),
    CHECK: ((FROM_SOURCE,), 0, 0),
    LINK: ((FROM_DESTINATION,), 24, 24),
    VM_REFUSED: ((FROM_DESTINATION,), 12, 512),
    PLACED: ((FROM_DESTINATION,), 16, 1540),
    ROUND: ((FROM_SOURCE,), 13, 524300),
    ROUND_END: ((FROM_SOURCE,), 16, 16),
    ROUND_DONE: ((FROM_DESTINATION,), 32, 32),
    FIRST: ((FROM_SOURCE,), 12, 2052),
}

HELLO = struct.Struct(">8sIIQ16sQIIIIQ")
HELLO_REPLY = struct.Struct(">8sIIQIIII")
FRAME = struct.Struct(">II")
PAGE = struct.Struct(">IIQQII")
BLOCK = struct.Struct(">QQI")

FORBIDDEN = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class Violation(AssertionError):
    """The program at the other end broke PROTOCOL.md."""


def must(holds, what):
    if not holds:
        raise Violation(what)


def take_text(raw, what):
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Violation(f"{what} is not UTF-8: {raw!r}") from error
    must(not FORBIDDEN.search(text), f"{what} has control characters: {raw!r}")
    return text


# ---- opening a channel ----


def make_hello(session=bytes(16), versions=(1, 1), features=0, epoch=1, channel=CONTROL, index=0, wanted=(0, 0),
               magic=MAGIC, reserved=0):
    return HELLO.pack(magic, *versions, features, session, epoch, channel, index, *wanted, reserved)


def take_hello(raw):
    magic, low, high, features, session, epoch, channel, index, urgent, background, _ = HELLO.unpack(raw)
    must(magic == MAGIC, f"HELLO has the magic {magic!r}")
    must(1 <= low <= high, f"HELLO has the versions {low} to {high}")
    must(epoch != 0, "HELLO has epoch 0")
    must(channel in (CONTROL, URGENT, BACKGROUND), f"HELLO has channel {channel}")
    must(index < (1 if channel == CONTROL else CHANNELS_MAX), f"HELLO has index {index}")
    for wanted in (urgent, background):
        must(1 <= wanted <= CHANNELS_MAX if channel == CONTROL else wanted == 0, f"HELLO wants {wanted} channels")
    return Record(versions=(low, high), features=features, session=session, epoch=epoch, channel=channel,
                  index=index, wanted=(urgent, background))


def make_hello_reply(status=ACCEPTED, version=1, features=0, channels=(0, 0), text=b"", text_bytes=None,
                     magic=MAGIC, reserved=0):
    length = len(text) if text_bytes is None else text_bytes
    return HELLO_REPLY.pack(magic, status, version, features, *channels, length, reserved) + text


def take_hello_reply(read):
    """`read(n)` gives the next n bytes of the channel."""
    magic, status, version, features, urgent, background, text_bytes, _ = HELLO_REPLY.unpack(
        read(HELLO_REPLY.size))
    must(magic == MAGIC, f"HELLO_REPLY has the magic {magic!r}")
    must(text_bytes <= TEXT_MAX, f"HELLO_REPLY has {text_bytes} bytes of text")
    text = take_text(read(text_bytes), "the text of HELLO_REPLY")
    return Record(status=status, version=version, features=features, channels=(urgent, background), text=text)


# ---- control channel ----


def make_frame(kind, payload=b"", length=None):
    return FRAME.pack(kind, len(payload) if length is None else length) + payload


def take_frame(read, sender):
    kind, length = FRAME.unpack(read(FRAME.size))
    must(kind in FRAMES, f"frame type {kind} is unknown")
    senders, shortest, longest = FRAMES[kind]
    must(sender in senders, f"frame type {kind} is not the {sender}'s")
    must(shortest <= length <= longest, f"frame type {kind} has {length} bytes")
    return kind, read(length)


def make_advise(blocks, vm_name=b"peer", count=None):
    """Blocks are (idstr, length, page size)."""
    parts = [struct.pack(">II", len(vm_name), len(blocks) if count is None else count), vm_name]
    for idstr, length, page_size in blocks:
        parts += [BLOCK.pack(length, page_size, len(idstr)), idstr]
    return make_frame(ADVISE, b"".join(parts))


def take_advise(payload):
    name_bytes, count = struct.unpack_from(">II", payload)
    must(name_bytes <= 255 and 1 <= count <= 256, f"ADVISE with {name_bytes} bytes of name, {count} blocks")
    at = 8 + name_bytes
    name, blocks = take_text(payload[8:at], "vm_name"), []
    for _ in range(count):
        length, page_size, idstr_bytes = BLOCK.unpack_from(payload, at)
        at += BLOCK.size
        must(1 <= idstr_bytes <= 255 and at + idstr_bytes <= len(payload), f"idstr of {idstr_bytes} bytes")
        blocks.append((payload[at:at + idstr_bytes], length, page_size))
        at += idstr_bytes
        take_text(blocks[-1][0], "idstr")
        must(page_size & page_size - 1 == 0 and 4096 <= page_size <= 1 << 34, f"pages of {page_size} bytes")
        must(length and length % page_size == 0, f"a block of {length} bytes in pages of {page_size}")
    must(at == len(payload), "ADVISE does not end with its last block")
    must(len({idstr for idstr, _, _ in blocks}) == count, "two blocks have one name")
    must(sum(length // page for _, length, page in blocks) <= 2**32 - 2, "too many pages")
    must(sum(length for _, length, _ in blocks) < 2**64, "too many bytes")
    return name, blocks


def make_wish(placement=0, hold_background=0):
    return make_frame(WISH, struct.pack(">II", placement, hold_background))


def take_wish(payload):
    placement, hold_background = struct.unpack(">II", payload)
    must(placement <= 2 and hold_background <= 1, f"WISH with {placement}, {hold_background}")
    return Record(placement=placement, hold_background=hold_background)


def make_link(round_trip_ns=1000, rate_bytes_per_s=10**9, max_page_stall_ns=0):
    return make_frame(LINK, struct.pack(">QQQ", round_trip_ns, rate_bytes_per_s, max_page_stall_ns))


def take_link(payload):
    round_trip_ns, rate, stall_ns = struct.unpack(">QQQ", payload)
    must(round_trip_ns and rate, f"LINK with a round trip of {round_trip_ns} ns and {rate} bytes a second")
    return Record(round_trip_ns=round_trip_ns, rate_bytes_per_s=rate, max_page_stall_ns=stall_ns)


def make_ready(placement=1, chunk_bytes=1 << 18):
    return make_frame(READY, struct.pack(">II", placement, chunk_bytes))


def take_ready(payload):
    placement, chunk = struct.unpack(">II", payload)
    must(placement <= 1, f"READY with placement {placement}")
    must(chunk & chunk - 1 == 0 and 4096 <= chunk <= REQUEST_MAX, f"READY with chunks of {chunk} bytes")
    return Record(placement=placement, chunk_bytes=chunk)


def make_presence(block, first_page, present, pages=None):
    """`present` has one truth value for each page."""
    bits = bytearray((len(present) + 7) // 8)
    for i, there in enumerate(present):
        bits[i // 8] |= bool(there) << i % 8
    count = len(present) if pages is None else pages
    return make_frame(PRESENCE, struct.pack(">III", block, first_page, count) + bytes(bits))


def take_presence(payload):
    block, first_page, pages = struct.unpack_from(">III", payload)
    bits = payload[12:]
    must(1 <= pages <= PRESENCE_PAGES_MAX, f"PRESENCE of {pages} pages")
    must(len(bits) == (pages + 7) // 8, f"PRESENCE of {pages} pages has {len(bits)} bytes of bits")
    every = [bits[i // 8] >> i % 8 & 1 for i in range(8 * len(bits))]
    must(not any(every[pages:]), "PRESENCE has bits behind the last page")
    return Record(block=block, first_page=first_page, present=every[:pages])


def make_first(pages, count=None):
    """Pages are (block, page)."""
    return make_frame(FIRST, b"".join((struct.pack(">I", len(pages) if count is None else count),
                                       *(struct.pack(">II", *page) for page in pages))))


def take_first(payload):
    count, = struct.unpack_from(">I", payload)
    must(1 <= count <= 256, f"FIRST of {count} pages")
    must(len(payload) == 4 + 8 * count, f"FIRST of {count} pages has {len(payload)} bytes")
    return [struct.unpack_from(">II", payload, 4 + 8 * number) for number in range(count)]


def make_round(block, first_page, named, pages=None):
    """`named` has one truth value for each page; laid out as PRESENCE."""
    return make_frame(ROUND, make_presence(block, first_page, named, pages)[FRAME.size:])


take_round = take_presence


def make_round_end(number, flags=0, limit_bytes_per_s=0):
    return make_frame(ROUND_END, struct.pack(">IIQ", number, flags, limit_bytes_per_s))


def take_round_end(payload):
    number, flags, limit = struct.unpack(">IIQ", payload)
    must(number >= 1, "ROUND_END of round 0")
    must(flags & ~(ROUND_CUT | ROUND_FINAL | ROUND_WHOLE) == 0, f"ROUND_END with the flags {flags:#x}")
    must(not (flags & ROUND_FINAL and flags & ROUND_CUT), "ROUND_END with FINAL and CUT")
    must(flags & ROUND_FINAL or not flags & ROUND_WHOLE, "ROUND_END with WHOLE and without FINAL")
    return Record(number=number, cut=bool(flags & ROUND_CUT), final=bool(flags & ROUND_FINAL),
                  whole=bool(flags & ROUND_WHOLE), limit_bytes_per_s=limit)


def make_round_done(number, moved_bytes=0, duration_ns=1, rate_bytes_per_s=0):
    return make_frame(ROUND_DONE, struct.pack(">IIQQQ", number, 0, moved_bytes, duration_ns, rate_bytes_per_s))


def take_round_done(payload):
    number, _, moved_bytes, duration_ns, rate = struct.unpack(">IIQQQ", payload)
    return Record(number=number, moved_bytes=moved_bytes, duration_ns=duration_ns, rate_bytes_per_s=rate)


def make_device_end(total):
    return make_frame(DEVICE_END, struct.pack(">Q", total))


def take_device_end(payload):
    return struct.unpack(">Q", payload)[0]


def make_finish(downtime_ns=1, total_time_ns=2, sent_bytes=3):
    return make_frame(FINISH, struct.pack(">QQQ", downtime_ns, total_time_ns, sent_bytes))


def take_finish(payload):
    return Record(**dict(zip(("downtime_ns", "total_time_ns", "sent_bytes"), struct.unpack(">QQQ", payload))))


def make_fail(text=b"the peer says no", kind=FAIL_LOCAL, errnum=5, text_bytes=None, message=FAIL):
    length = len(text) if text_bytes is None else text_bytes
    return make_frame(message, struct.pack(">III", kind, errnum, length) + text)


def make_refused(text=b"the peer will not run it", **fields):
    return make_fail(text, message=VM_REFUSED, **fields)


def take_fail(payload):
    """Of REFUSED too."""
    kind, errnum, text_bytes = struct.unpack_from(">III", payload)
    must(1 <= kind <= 4 and 1 <= errnum <= 4095, f"a reason of class {kind}, errno {errnum}")
    must(text_bytes == len(payload) - 12, f"a reason with {text_bytes} bytes of text in {len(payload)}")
    return Record(kind=kind, errnum=errnum, text=take_text(payload[12:], "the text of a reason"))


def make_placed(*ranges, count=None):
    """Ranges are (block, first page, pages)."""
    count = len(ranges) if count is None else count
    return make_frame(PLACED, struct.pack(">I", count) + b"".join(struct.pack(">III", *each) for each in ranges))


def take_placed(payload, blocks):
    count = struct.unpack_from(">I", payload)[0]
    must(1 <= count <= 128 and len(payload) == 4 + 12 * count, f"PLACED of {count} ranges in {len(payload)} bytes")
    ranges = [struct.unpack_from(">III", payload, 4 + 12 * i) for i in range(count)]
    for block, first, pages in ranges:
        must(block < len(blocks), f"PLACED of block {block}")
        must(pages >= 1 and first + pages <= blocks[block][1] // blocks[block][2], f"PLACED of {first}+{pages}")
    return ranges


# ---- page channels ----


def make_request(block, number, offset, length, marker=REQUEST, reserved=0):
    return PAGE.pack(marker, block, number, offset, length, reserved)


def make_reply(request, data=b"", flags=0, **changes):
    fields = {"marker": REPLY, "block": request.block, "number": request.number, "offset": request.offset,
              "length": request.length, "flags": flags, **changes}
    return PAGE.pack(*fields.values()) + data


def take_request(raw, blocks):
    """A request for the probe block is one for a page of its own."""
    marker, block, number, offset, length, _ = PAGE.unpack(raw)
    must(marker == REQUEST, f"a request with the marker {marker:#x}")
    must(block < len(blocks) or block == PROBE_BLOCK, f"a request for block {block}")
    block_bytes, page_size = (PROBE_BYTES,) * 2 if block == PROBE_BLOCK else blocks[block][1:]
    must(offset % 4096 == 0 and length % 4096 == 0 and 4096 <= length <= REQUEST_MAX,
         f"a request for {length} bytes at {offset}")
    must(offset + length <= block_bytes, f"a request for {length} bytes at {offset} of {block_bytes}")
    must(offset // page_size == (offset + length - 1) // page_size, "a request over a page's edge")
    return Record(block=block, number=number, offset=offset, length=length)


def take_reply(read, request):
    """Returns the bytes of the range."""
    marker, block, number, offset, length, flags = PAGE.unpack(read(PAGE.size))
    must(marker == REPLY, f"a reply with the marker {marker:#x}")
    must((block, number, offset, length) == (request.block, request.number, request.offset, request.length),
         f"a reply to something else: block {block}, id {number}, {length} bytes at {offset}")
    must(flags & ~ZERO == 0, f"a reply with the flags {flags:#x}")
    must(not flags or block != PROBE_BLOCK, "the probe block is answered with zero")
    return bytes(length) if flags & ZERO else read(length)
