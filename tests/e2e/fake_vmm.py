# SPDX-License-Identifier: Apache-2.0
"""A VMM of threads in this process: memory as the test wants it, no guest. It answers QMP and the attach protocol.

Memory is mapped without reserving and never touched, so it needs no huge pages.
"""
import array
import ctypes
import json
import mmap
import os
import socket
import threading

from host import M

MAP_NORESERVE = 0x4000
MAP_HUGETLB = 0x40000
MAP_HUGE_SHIFT = 26


class Block:
    """What is said of it may differ from what it is."""

    def __init__(self, ident, length=16 * M, page_size=2 * M, private=False, path=None, said_length=None,
                 said_page_size=None, mapped=True):
        self.ident, self.length, self.page_size, self.private = ident, length, page_size, private
        self.path, self.mapped = path, mapped
        self.said_length = said_length or length
        self.said_page_size = said_page_size or page_size
        self.fd, self.memory, self.address = -1, None, 0

    def open(self, host):
        if self.path is None:
            self.path = os.path.join(host.mount(self.page_size), os.path.basename(host.name("ram")))
        if self.path:
            self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.ftruncate(self.fd, self.length)
        kind = mmap.MAP_PRIVATE if self.private else mmap.MAP_SHARED
        if self.fd < 0:
            kind |= mmap.MAP_ANONYMOUS | MAP_HUGETLB | (self.page_size.bit_length() - 1) << MAP_HUGE_SHIFT
        if self.mapped:
            self.memory = mmap.mmap(self.fd, self.length, kind | MAP_NORESERVE,
                                    mmap.PROT_READ | mmap.PROT_WRITE)
            byte = ctypes.c_char.from_buffer(self.memory)
            self.address = ctypes.addressof(byte)
            del byte

    def close(self):
        if self.memory:
            self.memory.close()
        if self.fd >= 0:
            os.close(self.fd)

    def region(self):
        return {"idstr": self.ident, "base_host_virt_addr": self.address, "size": self.said_length, "offset": 0,
                "page_size": self.said_page_size, "page_size_kib": self.said_page_size,
                "shared": not self.private}


class FakeVmm:
    def __init__(self, host, status, blocks, userfault=None):
        self.state, self.blocks = status, blocks
        self.userfault = userfault or {"class": "unsupported", "desc": "this VMM never lends a userfaultfd"}
        self.asked = []
        self.sockets = []
        for block in blocks:
            block.open(host)
        self.qmp_path, self.attach = host.name("qmp"), host.name("attach")
        self.listen(self.qmp_path, self.serve_qmp)
        self.listen(self.attach, self.serve_attach)

    def listen(self, path, serve):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        self.sockets.append(listener)
        threading.Thread(target=self.accept, args=(listener, serve), daemon=True).start()

    def accept(self, listener, serve):
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(peer, serve), daemon=True).start()

    @staticmethod
    def talk(peer, serve):
        try:
            with peer, peer.makefile("r", encoding="utf-8") as lines:
                serve(peer, lines)
        except OSError:
            pass  # the program has ended

    def close(self):
        for listener in self.sockets:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for block in self.blocks:
            block.close()

    def status(self):
        return self.state

    # QMP

    def answer(self, name, arguments):
        if name == "query-status":
            return {"status": self.state, "running": self.state == "running"}
        if name == "query-version":
            return {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}
        if name == "query-cpus-fast":
            return [{"cpu-index": 0, "thread-id": threading.get_native_id()}]
        if name == "query-memdev":
            return [{"id": block.ident, "size": block.said_length, "share": not block.private}
                    for block in self.blocks]
        if name == "qom-get":
            ident = arguments["path"].removeprefix("/objects/")
            return next((block.path for block in self.blocks if block.ident == ident and block.path), None)
        return {}

    def serve_qmp(self, peer, lines):
        peer.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
        for line in lines:
            request = json.loads(line)
            self.asked.append(request["execute"])
            said = self.answer(request["execute"], request.get("arguments"))
            answer = {"return": said} if said is not None else {
                "error": {"class": "GenericError", "desc": "there is no such property"}}
            if "id" in request:
                answer["id"] = request["id"]
            peer.sendall(json.dumps(answer).encode() + b"\r\n")

    # Attach

    def serve_attach(self, peer, lines):
        for line in lines:
            command = json.loads(line)["command"]
            self.asked.append(command)
            fds = array.array("i")
            if command == "hello":
                fds.extend(block.fd for block in self.blocks if not block.private)
                said = {"version": 1, "software": "fake", "vm_name": "fake", "pid": os.getpid(),
                        "regions": [block.region() for block in self.blocks]}
                answer = {"return": said, "fds": len(fds)}
            else:
                answer = {"error": self.userfault}
            control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
            peer.sendmsg([json.dumps(answer).encode() + b"\n"], control)
