# SPDX-License-Identifier: Apache-2.0
"""What end-to-end tests need: a private hugetlbfs, huge pages, VMMs, the hugeferry program.

Everything taken from the host is given back by Host.close(); processes die with this one, and the mounts live in
a mount namespace of this process, so a killed run leaves only a raised pool of huge pages.
"""
import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

LIMIT_S = 180
M = 1 << 20
G = 1 << 30
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS = 0x00020000
MS_PRIVATE_REC = 0x4000 | 0x40000
PR_SET_PDEATHSIG = 1


class Skip(Exception):
    """This host cannot do it, whatever the program does."""


def die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setpgid(0, 0)


def comes_true(condition, limit_s):
    """Looks again and again until the condition gives something true; what it gave last."""
    end = time.monotonic() + limit_s
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(0.01)  # between two looks, not instead of one


def wait_until(condition, what, limit_s=LIMIT_S):
    value = comes_true(condition, limit_s)
    if not value:
        raise AssertionError(f"not within {limit_s} s: {what}")
    return value


class Host:
    listen = "tcp:127.0.0.1:0"  # where a `receive` listens unless its test says otherwise
    qemu = "installed"  # which of emulator.KINDS a QEMU is

    def __init__(self, build):
        self.build = build
        self.hugeferry = os.path.join(build, "deploy/hugeferry")
        self.vmm = os.path.join(build, "kvm/vmm/hugeferry-vmm")
        self.watch = os.path.join(build, "tests/e2e/libhfwatch.so")
        self.verify = os.path.join(build, "tests/e2e/verify-guest")
        self.folder = tempfile.mkdtemp(prefix="hugeferry-e2e-", dir="/tmp")
        self.pools = {}
        self.mounts = {}
        self.running = []
        self.closing = []  # to be called at the end of a case
        self.number = 0
        if LIBC.unshare(CLONE_NEWNS) or LIBC.mount(None, b"/", None, MS_PRIVATE_REC, None):
            raise OSError(ctypes.get_errno(), "the end-to-end tests need root")

    def name(self, what):
        self.number += 1
        return os.path.join(self.folder, f"{self.number}-{what}")

    def state_options(self, command, recover_timeout=0):
        """Records and kept maps of this run alone. A lost link ends the program, unless a test wants it back."""
        options = ["--state-dir", os.path.join(self.folder, "state"), "--recover-timeout", recover_timeout]
        return options + (["--runtime-dir", os.path.join(self.folder, "runtime")] if command == "receive" else [])

    def mount(self, page_size):
        if page_size not in self.mounts:
            path = os.path.join(self.folder, f"huge-{page_size >> 20}M")
            os.mkdir(path)
            if LIBC.mount(b"hugeferry-e2e", path.encode(), b"hugetlbfs", 0,
                          f"pagesize={page_size >> 10}K".encode()):
                raise OSError(ctypes.get_errno(), f"mount of {path}")
            self.mounts[page_size] = path
        return self.mounts[page_size]

    @staticmethod
    def counter(page_size, name):
        return f"/sys/kernel/mm/hugepages/hugepages-{page_size >> 10}kB/{name}"

    def read_counter(self, page_size, name):
        with open(self.counter(page_size, name), encoding="ascii") as file:
            return int(file.read())

    def offers(self, page_size):
        """Has this kernel pages of that size, however few?"""
        return os.path.exists(self.counter(page_size, "nr_hugepages"))

    def available(self, page_size):
        if not self.offers(page_size):
            return 0
        return self.read_counter(page_size, "free_hugepages") - self.read_counter(page_size, "resv_hugepages")

    def pool(self, page_size):
        """What set_pool() sets: pages that are given back as soon as their last user ends are none of it."""
        while True:
            # Both change while a process ends: of one moment.
            total = self.read_counter(page_size, "nr_hugepages")
            surplus = self.read_counter(page_size, "surplus_hugepages")
            if self.read_counter(page_size, "nr_hugepages") == total:
                return total - surplus

    def set_pool(self, page_size, pages):
        with open(self.counter(page_size, "nr_hugepages"), "w", encoding="ascii") as file:
            file.write(str(pages))

    @contextlib.contextmanager
    def pool_locked(self, page_size):
        """Programs of this project change it under this lock (hugemem/hugepool.c), some after they were killed."""
        with open(self.counter(page_size, "nr_hugepages"), encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def make_available(self, page_size, pages):
        """Exactly so many pages can be had afterwards; says whether that worked."""
        with self.pool_locked(page_size):
            before = self.pool(page_size)
            total = self.read_counter(page_size, "nr_hugepages")
            self.set_pool(page_size, total + pages - self.available(page_size))
            change = self.pool(page_size) - before
        self.pools[page_size] = self.pools.get(page_size, 0) + change
        return self.available(page_size) == pages

    @staticmethod
    def compact():
        """Gives the kernel the best chance of finding memory in large pieces."""
        os.sync()
        for path, value in (("drop_caches", "3"), ("compact_memory", "1")):
            with open(f"/proc/sys/vm/{path}", "w", encoding="ascii") as file:
                file.write(value)

    def need_size(self, page_size):
        if not self.offers(page_size):
            raise Skip(f"this kernel has no huge pages of {page_size >> 20} MiB")

    def need(self, page_size, pages):
        if pages == 0 and not self.offers(page_size):
            return
        self.need_size(page_size)
        if self.make_available(page_size, pages):
            return
        self.compact()
        if self.make_available(page_size, pages):
            return
        text = f"{pages} huge pages of {page_size >> 20} MiB cannot be had, only {self.available(page_size)}"
        # A GiB in one piece is a matter of luck on a host that has run for long; smaller pages are not.
        raise Skip(text) if page_size == G else AssertionError(text)

    @staticmethod
    def need_kvm():
        """For the reference VMM: many cases count on the pace of its guest under KVM."""
        if not os.path.exists("/dev/kvm"):
            raise Skip("/dev/kvm is missing")

    @staticmethod
    def end_process(process):
        """Asked first: programs clear away behind themselves."""
        if process.poll() is None:
            process.terminate()
            # A VMM that is frozen, or whose vCPUs wait for pages, hears nothing, and has nothing to clear away.
            vmm = os.path.basename(process.args[0]) == "hugeferry-vmm" or "exec" in process.args[1:2]
            comes_true(lambda: process.poll() is not None or vmm and hears_nothing(process.pid), 1 if vmm else 20)
            if process.poll() is None:
                process.kill()
        process.wait()

    def end_processes(self):
        """All that can be ended and given back is, whatever fails."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.give_back)
            for process in self.running:
                stack.callback(self.end_process, process)
            for close in self.closing:
                stack.callback(close)
            self.running, self.closing = [], []

    def give_back(self):
        for path in self.mounts.values():
            for entry in list(os.scandir(path)):
                # libvirt makes itself a folder on every hugetlbfs.
                (shutil.rmtree if entry.is_dir() else os.unlink)(entry.path)
        for page_size, change in self.pools.items():
            with self.pool_locked(page_size):
                # Somebody else may have lowered the pool meanwhile.
                self.set_pool(page_size, max(0, self.pool(page_size) - change))
        self.pools.clear()

    def close(self):
        try:
            self.end_processes()
        finally:
            for path in self.mounts.values():
                LIBC.umount2(path.encode(), 0)
            shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, *arguments, before_exec=None):
        """before_exec runs in the new process, as root: what it takes away, the program does not have."""
        def prepare():
            os.putenv("TMPDIR", self.folder)  # where the sockets of programs that are killed may stay
            if before_exec:
                before_exec()
            die_with_parent()

        out_path, err_path = self.name("out"), self.name("err")
        with open(out_path, "w", encoding="utf-8") as out, open(err_path, "w", encoding="utf-8") as err:
            process = subprocess.Popen([str(a) for a in arguments], stdin=subprocess.DEVNULL, stdout=out,
                                       stderr=err, preexec_fn=prepare)
        process.out_path, process.err_path = out_path, err_path
        self.running.append(process)
        return process


def out_of(process):
    with open(process.out_path, encoding="utf-8") as file:
        return file.read()


def free_port():
    """One that no outgoing connection is given."""
    for port in range(20000 + os.getpid() % 5000, 32000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def err_of(process):
    with open(process.err_path, encoding="utf-8") as file:
        return file.read()


def finish(process, limit_s=LIMIT_S):
    """Waits for its end; returns exit code and what it said on stderr."""
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired as late:
        raise AssertionError(f"{process.args[:2]} did not end; it said: {err_of(process)}") from late
    return code, err_of(process)


def one_line(text, *parts):
    """Exactly one line on stderr, and it names all of these."""
    lines = text.splitlines()
    assert len(lines) == 1, f"one line was expected on stderr, not: {lines}"
    for part in parts:
        assert part in lines[0], f"'{part}' is not named in: {lines[0]}"


class Qmp:
    """Enough of a QMP client to ask and to stop."""

    def __init__(self, path, limit_s=60):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(limit_s)
        self.socket.connect(path)
        # For reading only: what a file for both ways has read ahead is lost when it is written to.
        self.file = self.socket.makefile("r", encoding="utf-8")
        self.file.readline()
        self.execute("qmp_capabilities")

    def write(self, request):
        self.socket.sendall((json.dumps(request) + "\n").encode())

    def execute(self, command, **arguments):
        self.write({"execute": command, "arguments": arguments})
        while True:
            answer = json.loads(self.file.readline())
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise AssertionError(f"{command}: {answer['error']}")

    def close(self):
        self.file.close()
        self.socket.close()


class Vmm:
    def __init__(self, host, incoming=False, mem=256 * M, page_size=2 * M, vcpus=2, ident="ram0", extra=(),
                 before_exec=None):
        host.need_kvm()
        self.ram = os.path.join(host.mount(page_size), os.path.basename(host.name("ram")))
        self.qmp_path = host.name("qmp")
        self.monitor = self.qmp_path  # where the tests ask
        self.attach = host.name("attach")
        arguments = [host.vmm, "--name", "e2e", "--mem", mem, "--page-size", f"{page_size >> 20}M",
                     "--ram-file", self.ram, "--vcpus", vcpus, "--id", ident,
                     "--qmp", f"unix:{self.qmp_path}", "--attach", self.attach, *extra]
        self.process = host.start(*arguments, *(["--incoming", "defer"] if incoming else []),
                                  before_exec=before_exec)
        self.page_size = page_size
        wait_until(self.answers, "the VMM answers")
        if not incoming:
            self.wait_runs(4 if "--pace" in extra else 1000)

    def answers(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the VMM ended: {err_of(self.process)}")
        try:
            Qmp(self.monitor).close()
            return True
        except OSError:
            return False

    def execute(self, command, **arguments):
        client = Qmp(self.monitor)
        try:
            return client.execute(command, **arguments)
        finally:
            client.close()

    def is_frozen(self):
        """Every thread of it stands, whatever its VM is said to do."""
        try:
            return state_of(self.process.pid) == "T"
        except FileNotFoundError:
            return False

    def resting(self):
        """Its VM cannot run now."""
        return self.process.poll() is not None or self.is_frozen()

    def status(self):
        """What the VMM says; one that was frozen or has ended says nothing, perhaps in the middle of it."""
        end = time.monotonic() + 60
        while True:
            if self.process.poll() is not None:
                return "ended"
            if self.is_frozen():
                return "frozen"
            try:
                client = Qmp(self.monitor, limit_s=2)
                try:
                    return client.execute("query-status")["status"]
                finally:
                    client.close()
            except (OSError, ValueError):
                assert time.monotonic() < end, "the VMM neither answers nor is frozen"

    def counted_each(self, position):
        """One counter of the guest, of each vCPU. System pages exist, so looking allocates nothing."""
        with open(self.ram, "rb") as file:
            with mmap.mmap(file.fileno(), self.page_size, mmap.MAP_SHARED, mmap.PROT_READ) as first:
                header = struct.unpack_from("<16Q", first, 0x1000)
                vcpus, system_pages, status = header[3], header[9], header[12]
            with mmap.mmap(file.fileno(), self.page_size * system_pages, mmap.MAP_SHARED,
                           mmap.PROT_READ) as system:
                # Counts are sealed: the high byte is a check.
                return [struct.unpack_from("<Q", system, status + 128 * vcpu + 8 * position)[0] & (1 << 56) - 1
                        for vcpu in range(vcpus)]

    def counted(self, position):
        return sum(self.counted_each(position))

    def visits(self):
        return self.counted(1)

    def errors(self):
        """Words the guest found wrong."""
        return self.counted(5)

    def wait_runs(self, visits=1000):
        before = self.visits()
        wait_until(lambda: self.visits() > before + visits, "the guest makes progress", 60)


class Touch:
    """Reads a byte of a VMM's guest memory as a thread of the VMM would; it waits while the page is missing."""

    def __init__(self, vmm, offset):
        with open(f"/proc/{vmm.process.pid}/maps", encoding="utf-8") as file:
            self.address = next(int(line.split("-")[0], 16) for line in file if vmm.ram in line) + offset
        self.process = vmm.process
        self.result = None
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        byte = ctypes.create_string_buffer(1)
        vectors = [(ctypes.c_void_p * 2)(place, 1) for place in (ctypes.addressof(byte), self.address)]
        self.result = LIBC.process_vm_readv(self.process.pid, vectors[0], 1, vectors[1], 1, 0), byte.raw

    def waits(self):
        """In the kernel, for a page that is missing: it has not got zeros instead."""
        assert self.result is None, f"a missing page gave {self.result}"
        return waits_for_page(os.getpid(), self.thread.native_id)

    def end(self):
        """Only the end of the VMM, and of its userfaultfd with it, ends the wait."""
        self.process.kill()
        self.thread.join(LIMIT_S)


def state_of(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rsplit(")", 1)[1].split()[0]


def hears_nothing(pid):
    """Is it frozen, or does a thread of it wait for a page?"""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return state_of(pid) == "T" or any(waits_for_page(pid, thread) for thread in os.listdir(f"/proc/{pid}/task"))
    return False


def waits_for_page(pid, thread):
    with open(f"/proc/{pid}/task/{thread}/wchan", encoding="ascii") as file:
        return "userfault" in file.read()


def assert_whole(host, vmm):
    """Stops the VM and checks every byte of its memory from outside."""
    client = Qmp(vmm.qmp_path)
    client.execute("stop")
    client.close()
    process = host.start(host.verify, vmm.ram)
    code, said = finish(process)
    assert code == 0, said


def assert_runs(vmm):
    assert vmm.status() == "running", f"the VM is {vmm.status()}"
    vmm.wait_runs(10)


def receive(host, vmm, *extra, listen=None, before_exec=None):
    return host.start(host.hugeferry, "receive", "--vm", f"qmp:{vmm.qmp_path}", "--attach", vmm.attach,
                      "--listen", listen or host.listen, *host.state_options("receive"), *extra, before_exec=before_exec)


def await_memory(taker):
    """What `receive` does beforehand is over."""
    wait_until(lambda: "\nmemory is ready\n" in out_of(taker), "the memory is ready")


def send(host, vmm, uri, *extra, before_exec=None):
    return host.start(host.hugeferry, "send", "--vm", f"qmp:{vmm.qmp_path}", "--to", uri,
                      *host.state_options("send"), *extra, before_exec=before_exec)


def listening_uri(process):
    def look():
        text = out_of(process)
        if text.startswith("listening on ") and "\n" in text:
            return text.split("\n")[0].removeprefix("listening on ")
        if process.poll() is not None:
            raise AssertionError(f"receive ended: {err_of(process)}")
        return None
    return wait_until(look, "receive listens")
