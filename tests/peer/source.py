# SPDX-License-Identifier: Apache-2.0
"""The source's role: offers a captured VM, hands it over, serves its pages.

A source goes through the stages of STAGES, one step each; up_to() stops behind any of them, so that a test can go
on from there in its own way.
"""
import threading

import messages as m
from link import LIMIT_S, Closed
from messages import must


class Image:
    """A VM as bytes: what a destination has fetched, or what a test made up."""

    def __init__(self, blocks, device, present, pages):
        self.blocks = blocks  # (idstr, length, page size)
        self.device = device
        self.present = present  # for each block, a truth value for each page
        self.pages = pages  # (block, page): bytes, of those present

    def bytes_of(self, request):
        """None: all zeros."""
        page_size = self.blocks[request.block][2]
        page = self.pages.get((request.block, request.offset // page_size))
        start = request.offset % page_size
        return page[start:start + request.length] if page else None


class Source:
    STAGES = ["linked", "advised", "presence", "device", "served", "loaded", "running", "complete", "finished"]
    ROUNDS = ["in_round", "moved", "final"]  # with PRECOPY, before "presence"

    def __init__(self, link, image, answer=None):
        """`answer(request, reply)` may return other bytes than the right reply, or None to send none."""
        self.stages = self.STAGES[:2] + (self.ROUNDS if link.features & m.FEATURE_PRECOPY else []) + self.STAGES[2:]
        self.first_set = [(block, page) for block, present in enumerate(image.present)
                          for page, there in enumerate(present) if there]
        self.sets = 0  # that were said
        self.in_round = set()  # pages that may be asked for while the VM runs
        self.rounds_done = []
        self.link, self.image = link, image
        self.answer = answer or (lambda request, reply: reply)
        self.stage = "linked"
        self.troubles = []
        self.requests = []
        self.placed = set()  # pages that the destination says it has placed
        self.threads = []
        self.ready = self.measured = None
        self.may_ask = threading.Event()
        self.at_rest = threading.Event()
        self.serve()

    def up_to(self, stage):
        while self.stage != stage:
            self.stage = self.stages[self.stages.index(self.stage) + 1]
            getattr(self, f"to_{self.stage}")()
        return self

    def to_advised(self):
        self.link.send(m.make_advise(self.image.blocks))
        if self.link.features & m.FEATURE_LINK:
            self.measured = m.take_link(self.link.expect(m.LINK))
        self.ready = m.take_ready(self.link.expect(m.READY))

    # ---- rounds ----

    def to_in_round(self):
        self.begin_round(self.first_set)

    def to_moved(self):
        self.end_round()

    def to_final(self):
        self.say_final()

    def say_set(self, pages):
        """One ROUND for each run of pages."""
        for block, page in sorted(pages):
            if (block, page - 1) not in pages:
                end = page
                while (block, end) in pages:
                    end += 1
                self.link.send(m.make_round(block, page, [1] * (end - page)))

    def begin_round(self, pages, limit_bytes_per_s=0):
        self.say_set(set(pages))
        self.sets += 1
        self.in_round = set(pages)
        self.change_round(limit_bytes_per_s=limit_bytes_per_s)

    def change_round(self, **fields):
        self.link.send(m.make_round_end(self.sets, **fields))

    def end_round(self):
        done = m.take_round_done(self.link.expect(m.ROUND_DONE))
        must(done.number == self.sets, f"round {done.number} is done in round {self.sets}")
        self.in_round = set()
        self.rounds_done.append(done)
        return done

    def say_final(self, pages=(), flags=0):
        self.say_set(set(pages))
        self.sets += 1
        self.change_round(flags=flags | m.ROUND_FINAL)

    # ---- from PRESENCE on ----

    def to_presence(self, pages_each=m.PRESENCE_PAGES_MAX):
        for block, present in enumerate(self.image.present):
            for first in range(0, len(present), pages_each):
                self.link.send(m.make_presence(block, first, present[first:first + pages_each]))

    def to_device(self, bytes_each=m.DEVICE_PIECE_MAX):
        for start in range(0, len(self.image.device), bytes_each):
            self.link.send(m.make_frame(m.DEVICE, self.image.device[start:start + bytes_each]))

    def to_served(self):
        self.may_ask.set()
        self.link.send(m.make_device_end(len(self.image.device)))

    def to_loaded(self):
        self.link.expect(m.LOADED)

    def to_running(self):
        self.link.send(m.make_frame(m.RUN))
        self.link.expect(m.RESUMED)

    def to_complete(self):
        kind, payload = self.link.frame()
        while kind == m.PLACED:
            self.take_placed(payload)
            kind, payload = self.link.frame()
        must(kind == m.COMPLETE, f"frame type {kind} came, not COMPLETE")
        self.at_rest.set()

    def take_placed(self, payload):
        for block, first, pages in m.take_placed(payload, self.image.blocks):
            self.placed |= {(block, page) for page in range(first, first + pages)}

    def to_finished(self):
        self.link.send(m.make_finish())
        self.see_out()

    def see_out(self):
        """Waits until the destination has closed every channel; returns its FAIL, or None."""
        fail = self.link.last_frames()
        for thread in self.threads:
            thread.join(LIMIT_S)
            must(not thread.is_alive(), "a page channel is not closed")
        return fail

    def recover(self, link, given_up=True):
        """Goes on over a later link of the session; the earlier one is closed. Returns a refusal, or None."""
        self.link, self.threads = link, []
        self.serve()
        link.send(m.make_advise(self.image.blocks))
        if not given_up:
            link.send(m.make_fail())
            return None
        self.may_ask.set()
        link.send(m.make_frame(m.RUN))
        kind, payload = link.frame()
        if kind == m.VM_REFUSED:
            link.send(m.make_fail(b"the source has its VM back"))
            return m.take_fail(payload)
        must(kind == m.RESUMED, f"frame type {kind} came, not RESUMED")
        self.stage = "running"
        return None

    def check(self):
        """Instead of all stages: the link is measured, nothing is moved."""
        self.link.send(m.make_frame(m.CHECK))
        self.measured = m.take_link(self.link.expect(m.LINK))

    # ---- page channels ----

    def serve(self):
        for key, channel in self.link.pages.items():
            thread = threading.Thread(target=self.serve_channel, args=(key[0], channel), daemon=True)
            thread.start()
            self.threads.append(thread)

    def serve_channel(self, kind, channel):
        try:
            while True:
                request = m.take_request(channel.read(m.PAGE.size), self.image.blocks)
                request.kind, request.channel = kind, channel
                reply = self.right_answer(request)
                reply = self.answer(request, reply)
                if reply is not None:
                    channel.send(reply)
        except (Closed, OSError):
            pass
        except m.Violation as error:
            self.troubles.append(error)
            self.link.shut()

    def right_answer(self, request):
        if request.block == m.PROBE_BLOCK:
            must(self.link.features & m.FEATURE_LINK, "the probe block without the feature")
            must(self.ready is None, "the probe block after READY")
            return m.make_reply(request, bytes(request.length))
        page = request.offset // self.image.blocks[request.block][2]
        must(self.may_ask.is_set() or (request.block, page) in self.in_round,
             f"a request for page {page} before DEVICE_END, and not of the round")
        must(not self.at_rest.is_set(), "a request after COMPLETE")
        must(request.length <= self.ready.chunk_bytes, f"a request for {request.length} bytes")
        must((request.block, page) not in self.placed, f"a request for page {page}, which was placed")
        must(self.link.hello.get("epoch", 1) == 1 or self.image.present[request.block][page],
             f"a request for page {page}, which does not exist, on a later link")
        request.round = 0 if self.may_ask.is_set() else self.sets
        self.requests.append(request)
        data = self.image.bytes_of(request)
        return m.make_reply(request, data) if data else m.make_reply(request, flags=m.ZERO)

    def close(self):
        self.link.shut()
        for thread in self.threads:
            thread.join()
        self.link.close()
        must(not self.troubles, f"page channels: {self.troubles}")
