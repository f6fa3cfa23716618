# SPDX-License-Identifier: Apache-2.0
"""The destination's role: takes a VM's device state, fetches its pages. Stages as in source.py."""
import select
import socket
import threading
import time
from collections import deque

import messages as m
from messages import Record, must
from source import Image

WINDOW = 8


class Destination:
    STAGES = ["linked", "advised", "ready", "loaded", "running", "fetched", "complete", "finished"]
    ROUNDS = ["in_round", "final"]  # with PRECOPY, before "ready"

    def __init__(self, link, chunk_bytes=1 << 18, placement=1):
        self.stages = self.STAGES[:2] + (self.ROUNDS if link.features & m.FEATURE_PRECOPY else []) + self.STAGES[2:]
        self.link, self.chunk_bytes, self.placement = link, chunk_bytes, placement
        self.stage = "linked"
        self.reserved = 0  # of requests
        self.vm_name = self.blocks = self.image = None
        self.device = []
        self.present = []
        self.wishes = []
        self.finish = None
        self.round = None  # the last ROUND_END that was heard
        self.named = set()  # (block, page), of the last set
        self.moved = {}  # (block, page): the bytes, of pages fetched whole since they were last named
        self.moved_bytes = self.round_began_ns = 0
        self.rounds_done = []
        self.lies = {}  # what ROUND_DONE says instead of what is true
        self.numbers = iter(range(1, 1 << 62))

    def up_to(self, stage):
        while self.stage != stage:
            self.stage = self.stages[self.stages.index(self.stage) + 1]
            getattr(self, f"to_{self.stage}")()
        return self

    def frame(self):
        """The next frame that is no WISH."""
        while True:
            kind, payload = self.link.frame()
            if kind != m.WISH:
                return kind, payload
            wish = m.take_wish(payload)
            must(wish.placement == 0 or self.blocks is None, "a placement is wished for after ADVISE")
            self.wishes.append(wish)

    def expect(self, kind):
        found, payload = self.frame()
        must(found == kind, f"frame type {found} came, not {kind}")
        return payload

    def to_advised(self):
        self.vm_name, self.blocks = m.take_advise(self.expect(m.ADVISE))
        self.present = [[] for _ in self.blocks]

    def say_ready(self):
        if self.link.features & m.FEATURE_LINK:
            self.probe()
            self.link.send(m.make_link())
        self.link.send(m.make_ready(self.placement, self.chunk_bytes))

    def to_in_round(self):
        """Says READY and takes the first set."""
        self.say_ready()
        self.take_set()

    def to_final(self):
        """Moves round after round, until the final set is heard."""
        while not self.round.final:
            self.move_round()
            self.take_set()

    def to_ready(self):
        """Says READY and takes everything up to DEVICE_END."""
        if self.round is None:
            self.say_ready()
        self.take_state()

    def take_state(self):
        kind, payload = self.frame()
        while kind == m.PRESENCE:
            self.take_presence(m.take_presence(payload))
            kind, payload = self.frame()
        for (_, length, page_size), present in zip(self.blocks, self.present):
            must(len(present) == length // page_size, "the presence map is not whole")
        while kind == m.DEVICE:
            self.device.append(payload)
            kind, payload = self.frame()
        must(kind == m.DEVICE_END, f"frame type {kind} came, not DEVICE_END")
        total = m.take_device_end(payload)
        must(1 <= total <= m.DEVICE_TOTAL_MAX and total == sum(map(len, self.device)), f"a total of {total}")
        self.image = Image(self.blocks, b"".join(self.device), self.present, {
            key: data for key, data in self.moved.items() if self.present[key[0]][key[1]]})

    def take_presence(self, part):
        must(part.block < len(self.blocks), f"PRESENCE of block {part.block}")
        must(all(not later for later in self.present[part.block + 1:]), "PRESENCE is not in ascending order")
        must(part.first_page == len(self.present[part.block]), "PRESENCE has a gap, or an overlap")
        self.present[part.block] += part.present

    def to_loaded(self):
        if self.round and self.round.whole:
            self.fetch_all()
        self.link.send(m.make_frame(m.LOADED))
        self.expect(m.RUN)

    def to_running(self):
        self.link.send(m.make_frame(m.RESUMED))

    def to_fetched(self):
        self.fetch_all()

    def to_complete(self):
        self.link.send(m.make_frame(m.COMPLETE))

    def to_finished(self):
        self.finish = m.take_finish(self.expect(m.FINISH))
        self.see_out()

    def recover(self, link):
        """Takes a later link of the session up to RUN or FAIL; returns the FAIL, or None."""
        self.link = link
        _, blocks = m.take_advise(self.expect(m.ADVISE))
        must(blocks == self.blocks, "a recovered link has other blocks")
        kind, payload = self.frame()
        if kind == m.FAIL:
            return m.take_fail(payload)
        must(kind == m.RUN, f"frame type {kind} came, not RUN")
        self.stage = "loaded"
        return None

    def see_out(self):
        """Waits until the source has closed every channel; returns its FAIL, or None."""
        fail = self.link.last_frames()
        for channel in self.link.pages.values():
            channel.wait_closed()
        return fail

    # ---- rounds ----

    def take_set(self):
        """A set, and the ROUND_END that ends it for the first time; what it names has to be fetched again."""
        self.named, reached = set(), (0, 0)
        kind, payload = self.frame()
        while self.round and kind == m.ROUND_END and m.take_round_end(payload).number == self.round.number:
            must(not m.take_round_end(payload).final, "a round becomes the final set")
            kind, payload = self.frame()  # it has crossed ROUND_DONE
        while kind == m.ROUND:
            part = m.take_round(payload)
            must(part.block < len(self.blocks), f"ROUND of block {part.block}")
            must((part.block, part.first_page) >= reached, "a set is not in ascending order, or overlaps")
            reached = part.block, part.first_page + len(part.present)
            _, length, page_size = self.blocks[part.block]
            must(reached[1] <= length // page_size, f"ROUND up to page {reached[1]}")
            self.named |= {(part.block, part.first_page + i) for i, named in enumerate(part.present) if named}
            kind, payload = self.frame()
        must(kind == m.ROUND_END, f"frame type {kind} came, not ROUND_END")
        end = m.take_round_end(payload)
        must(end.number == (self.round.number if self.round else 0) + 1, f"set {end.number} follows {self.round}")
        must(not end.cut, "a round is cut before it began")
        self.round = end
        self.moved = {key: data for key, data in self.moved.items() if key not in self.named}
        self.moved_bytes, self.round_began_ns = 0, time.monotonic_ns()

    def take_change(self):
        """A further ROUND_END of the round under way."""
        end = m.take_round_end(self.expect(m.ROUND_END))
        must(end.number == self.round.number and not end.final, f"{end} comes in {self.round}")
        must(end.cut or not self.round.cut, "a round that was cut goes on")
        self.round = end
        return end

    def move_round(self):
        """Fetches the set and says so; a source that cuts the round is obeyed."""
        def hear(todo):
            if self.take_change().cut:
                todo.clear()
        self.move_pages(self.named, hear)
        self.say_round_done()

    def move_pages(self, pages, hear=None):
        pages = self.fetch_pages(pages, hear)
        self.moved.update(pages)
        self.moved_bytes += sum(map(len, pages.values()))

    def say_round_done(self):
        took_ns = max(1, time.monotonic_ns() - self.round_began_ns)
        said = {"moved_bytes": self.moved_bytes, "duration_ns": took_ns,
                "rate_bytes_per_s": self.moved_bytes * 10**9 // took_ns, **self.lies}
        self.rounds_done.append(m.Record(number=self.round.number, **said))
        self.link.send(m.make_round_done(self.round.number, **said))

    # ---- page channels ----

    def request(self, block, offset, length):
        request = Record(block=block, number=next(self.numbers), offset=offset, length=length)
        return request, m.make_request(block, request.number, offset, length, reserved=self.reserved)

    def pieces(self, pages):
        for block, page in pages:
            page_size = self.blocks[block][2]
            step = min(self.chunk_bytes, page_size)
            for offset in range(page * page_size, (page + 1) * page_size, step):
                yield block, offset, step

    def fetch_all(self):
        """Every present page that is not here."""
        every = {(block, page) for block, present in enumerate(self.present)
                 for page, there in enumerate(present) if there}
        self.image.pages.update(self.fetch_pages(every - self.image.pages.keys()))

    def fetch_pages(self, pages, hear=None):
        """In pieces, each over any channel; returns those that came whole. `hear(todo)` takes a frame meanwhile."""
        todo, landed, troubles = deque(self.pieces(sorted(pages))), {}, []
        ended, ends = socket.socketpair()

        def pull(channel):
            try:
                self.pull(channel, todo, landed)
            except Exception as error:
                troubles.append(error)
            finally:
                ends.send(b"x")

        threads = [threading.Thread(target=pull, args=(channel,)) for channel in self.link.pages.values()]
        with ended, ends:
            for thread in threads:
                thread.start()
            running = len(threads)
            while running:
                if ended in select.select([ended] + ([self.link.control.socket] if hear else []), [], [])[0]:
                    running -= len(ended.recv(running))
                else:
                    hear(todo)
            for thread in threads:
                thread.join()
        must(not troubles, f"page channels: {troubles}")
        parts = {page: [landed.get(piece[:2]) for piece in self.pieces([page])] for page in pages}
        return {page: b"".join(data) for page, data in parts.items() if None not in data}

    def pull(self, channel, todo, landed):
        waiting = deque()
        while True:
            while len(waiting) < WINDOW and todo:
                try:
                    request, raw = self.request(*todo.popleft())
                except IndexError:  # another channel took it, or the round was cut
                    break
                waiting.append(request)
                channel.send(raw)
            if not waiting:
                return
            request = waiting.popleft()
            landed[request.block, request.offset] = m.take_reply(channel.read, request)

    def probe(self):
        for kind in (m.URGENT, m.BACKGROUND):
            for offset, length in ((0, 4096), (m.PROBE_BYTES - 4096, 4096), (0, m.PROBE_BYTES)):
                self.fetch(kind, m.PROBE_BLOCK, offset, length)

    def fetch(self, kind, block, offset, length):
        """One range over the first channel of the class."""
        request, raw = self.request(block, offset, length)
        channel = self.link.of_class(kind)[0]
        channel.send(raw)
        return m.take_reply(channel.read, request)

    def close(self):
        self.link.close()
