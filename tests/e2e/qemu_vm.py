# SPDX-License-Identifier: Apache-2.0
"""QEMUs as VMMs: unmodified, without KVM, with Debian's kernel and tests/e2e/qemu_guest.c as all of its user space.

The guest checks its memory on every vCPU and prints a heartbeat. What source and destination have written to the serial
port, one behind the other, is what a guest that was never moved would have written.
"""
import os
import re
import stat
import sys

from host import M, Vmm, comes_true, err_of, wait_until

sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "testbed"))

import emulator  # noqa: E402
import kernel as kernels  # noqa: E402
from vm import CACHE, cpio_entry  # noqa: E402

BEAT = re.compile(r"beat (\d+) passes((?: \d+)+) wrong (\d+) end\r?$")
BOOT_S, BOOTS_MAX = 60, 3
CONSOLE = (5, 1)  # /dev/console: what the kernel gives to /init as its output
CPU = "Nehalem"  # with `max` the kernel does not come up in QEMU 10


DISK_BYTES = 1 * M  # as tests/e2e/qemu_guest_devices.c uses
USED = ("slice", "random")  # by the guest, of devices()
MANAGED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "managed.py")


def modules():
    """Those for virtio devices, in the order in which they can be loaded."""
    folder, parts = os.path.join(kernels.get("default", CACHE), "modules"), [cpio_entry("modules", 0o40755)]
    for name in sorted(os.listdir(folder)):
        if re.search("virtio|failover|rng_core", name) and "9p" not in name:
            with open(os.path.join(folder, name), "rb") as file:
                parts.append(cpio_entry(f"modules/{name}", 0o100644, file.read()))
    return b"".join(parts)


def initramfs(host):
    path = os.path.join(host.folder, "qemu-initramfs")
    if not os.path.exists(path):
        with open(os.path.join(host.build, "tests/e2e/qemu-guest"), "rb") as file:
            guest = file.read()
        with open(path, "wb") as file:
            file.write(cpio_entry("dev", 0o40755) + cpio_entry("dev/console", stat.S_IFCHR | 0o600, device=CONSOLE) +
                       modules() + cpio_entry("init", 0o100755, guest) + cpio_entry("TRAILER!!!", 0))
    return path


def devices(host):
    """Options for a screen, a network card, random numbers and a disk; the same for both sides, as shared storage is."""
    disk = host.name("disk")
    with open(disk, "wb") as file:
        file.truncate(DISK_BYTES)
    return ("-vga", "std", "-device", "virtio-rng-pci", "-drive", f"file={disk},format=raw,if=none,id=disk",
            "-device", "virtio-blk-pci,drive=disk", "-netdev", "hubport,id=net,hubid=0",
            "-device", "virtio-net-pci,netdev=net,romfile=")


class Qemu(Vmm):
    """blocks: megabytes of each memory backend, each a NUMA node of its own if there are several.

    managed: its QMP socket is made by another program, as libvirt does. words: for the guest (tests/e2e/qemu_guest.c).
    """

    def __init__(self, host, incoming=False, blocks=(256,), vcpus=2, machine="q35", extra=(), options="",
                 managed=False, words=()):
        # No Vmm.__init__: what it starts is another program.
        self.host, self.page_size, self.incoming, self.words = host, 2 * M, incoming, words
        self.qmp_path, self.monitor, self.attach = host.name("qmp"), host.name("monitor"), host.name("attach")
        self.serial = host.name("serial")
        self.rams = [os.path.join(host.mount(self.page_size), os.path.basename(host.name("ram"))) for _ in blocks]
        self.ram = self.rams[0]
        qemu = emulator.get(host.qemu, CACHE)
        self.managed = (sys.executable, MANAGED, self.qmp_path) if managed else ()
        command = (*self.managed, host.hugeferry, "exec", "--attach", self.attach, "--", qemu.program, *qemu.options,
                   *self.memory(blocks, machine, vcpus, options), *self.rest(vcpus), *extra)
        for attempt in range(BOOTS_MAX):
            self.process = host.start(*command, before_exec=lambda: os.environ.update(qemu.environment()))
            wait_until(self.answers, "QEMU answers")
            if incoming or self.comes_up():
                return
            print(f"# the guest did not come up within {BOOT_S} s; boot {attempt + 1} of {BOOTS_MAX}", flush=True)
            self.start_over()
        raise AssertionError(f"the guest did not come up {BOOTS_MAX} times")

    def comes_up(self):
        """Has it gone over its memory?

        Before QEMU 8.1 a vCPU that translates code while another one patches it may keep what was there, and run into
        a breakpoint of Linux's for ever; one boot of some hundred hangs in it, before anything is moved.
        """
        return comes_true(lambda: all(self.passes()), BOOT_S)

    def start_over(self):
        self.process.kill()
        self.process.wait()
        for path in (*self.rams, self.serial, self.attach, self.monitor):
            os.unlink(path)

    def memory(self, blocks, machine, vcpus, options):
        words = ["-m", f"{sum(blocks)}M"]
        for number, (size, path) in enumerate(zip(blocks, self.rams)):
            words += ["-object", f"memory-backend-file,id=ram{number},size={size}M,mem-path={path},share=on,"
                                 f"prealloc=off{options}"]
            if len(blocks) > 1:
                words += ["-numa", f"node,memdev=ram{number}" + (f",cpus=0-{vcpus - 1}" if number == 0 else "")]
        return words + ["-machine", machine if len(blocks) > 1 else f"{machine},memory-backend=ram0"]

    def rest(self, vcpus):
        kernel = os.path.join(kernels.get("default", CACHE), "vmlinux")
        return ["-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", vcpus, "-nodefaults", "-no-user-config",
                "-display", "none", "-kernel", kernel, "-initrd", initramfs(self.host),
                "-append", " ".join(("console=ttyS0 quiet panic=-1 mitigations=off", *self.words)),
                "-serial", f"file:{self.serial}",
                *self.qmp(), "-qmp", f"unix:{self.monitor},server=on,wait=off",
                *(["-S", "-incoming", "defer"] if self.incoming else [])]

    def qmp(self):
        if self.managed:
            return ["-chardev", "socket,id=managed,fd=33,server=on,wait=off", "-mon", "chardev=managed,mode=control"]
        return ["-qmp", f"unix:{self.qmp_path},server=on,wait=off"]

    def said(self):
        if self.process.poll() not in (None, -9):
            raise AssertionError(f"QEMU ended: {err_of(self.process)}")
        try:
            with open(self.serial, encoding="latin1") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def passes(self):
        """How often each vCPU has gone over its memory, by the last heartbeat."""
        beats = [BEAT.match(line) for line in self.said().splitlines()]
        found = [beat for beat in beats if beat]
        return [int(word) for word in found[-1][2].split()] if found else [0]

    def visits(self):
        """Heartbeats, of which the last may not be whole."""
        return self.said().count("beat")

    def wait_runs(self, visits=1):
        """Until each vCPU has gone over all its memory so often again, and found it as it left it."""
        wait_until(lambda: any(self.passes()), "the guest's heart beats")
        before = self.passes()
        wait_until(lambda: all(now >= then + visits + 1 for now, then in zip(self.passes(), before)),
                   "the guest goes over its memory")


def check_guest(source, destination):
    """It goes over all its memory once more, and is the one that was at the source."""
    destination.wait_runs()
    assert destination.status() == "running"
    assert_one_guest(source, destination)


def assert_one_guest(*vms):
    """No heartbeat is missing or comes twice, and no word was ever wrong."""
    beats = []
    for line in "".join(vm.said() for vm in vms).splitlines()[:-1]:
        beat = BEAT.match(line)
        assert beat or not beats, f"this is no heartbeat: {line!r}"
        if beat:
            assert int(beat[3]) == 0, f"the guest found wrong words: {line}"
            beats.append(int(beat[1]))
    assert beats == list(range(len(beats))) and beats, beats
