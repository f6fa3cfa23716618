# SPDX-License-Identifier: Apache-2.0
"""The destination's role: takes a VM's device state, fetches its pages. Stages as in source.py."""
import threading
from collections import deque

import messages as m
from messages import Record, must
from source import Image

WINDOW = 8


class Destination:
    STAGES = ["linked", "advised", "ready", "loaded", "running", "fetched", "complete", "finished"]

    def __init__(self, link, chunk_bytes=1 << 18, placement=1):
        self.link, self.chunk_bytes, self.placement = link, chunk_bytes, placement
        self.stage = "linked"
        self.reserved = 0  # of requests
        self.vm_name = self.blocks = self.image = None
        self.device = []
        self.present = []
        self.wishes = []
        self.finish = None
        self.numbers = iter(range(1, 1 << 62))

    def up_to(self, stage):
        while self.stage != stage:
            self.stage = self.STAGES[self.STAGES.index(self.stage) + 1]
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

    def to_ready(self):
        """Says READY and takes everything up to DEVICE_END."""
        if self.link.features & m.FEATURE_LINK:
            self.probe()
            self.link.send(m.make_link())
        self.link.send(m.make_ready(self.placement, self.chunk_bytes))
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
        self.image = Image(self.blocks, b"".join(self.device), self.present, {})

    def take_presence(self, part):
        must(part.block < len(self.blocks), f"PRESENCE of block {part.block}")
        must(all(not later for later in self.present[part.block + 1:]), "PRESENCE is not in ascending order")
        must(part.first_page == len(self.present[part.block]), "PRESENCE has a gap, or an overlap")
        self.present[part.block] += part.present

    def to_loaded(self):
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

    # ---- page channels ----

    def request(self, block, offset, length):
        request = Record(block=block, number=next(self.numbers), offset=offset, length=length)
        return request, m.make_request(block, request.number, offset, length, reserved=self.reserved)

    def chunks(self):
        for block, (_, length, page_size) in enumerate(self.blocks):
            step = min(self.chunk_bytes, page_size)
            for offset in range(0, length, step):
                if self.present[block][offset // page_size]:
                    yield block, offset, step

    def fetch_all(self):
        """Every present page, in pieces, each piece over any channel."""
        todo, landed, troubles = deque(self.chunks()), {}, []

        def pull(channel):
            try:
                self.pull(channel, todo, landed)
            except Exception as error:
                troubles.append(error)

        threads = [threading.Thread(target=pull, args=(channel,)) for channel in self.link.pages.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        must(not troubles, f"page channels: {troubles}")
        for block, (_, _, page_size) in enumerate(self.blocks):
            step = min(self.chunk_bytes, page_size)
            for page, there in enumerate(self.present[block]):
                if there:
                    self.image.pages[block, page] = b"".join(
                        landed[block, at] for at in range(page * page_size, (page + 1) * page_size, step))

    def pull(self, channel, todo, landed):
        waiting = deque()
        while True:
            while len(waiting) < WINDOW and todo:
                try:
                    request, raw = self.request(*todo.popleft())
                except IndexError:  # another channel took it
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
