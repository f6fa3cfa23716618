# SPDX-License-Identifier: Apache-2.0
"""A VM of the testbed: QEMU, without KVM, with a kernel of kernel.py and the host's root as its own.

The VM's root is the host's, read-only, below a layer in memory (see `init`), so that a program is run as it was built
on the host and nothing is built again. A folder of the host is the VM's /mnt. Output of the command comes over the
second serial line; the kernel's console, the first one, is kept apart and shown if the VM ends without an exit code.
"""
import ctypes
import os
import shlex
import signal
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
BUSYBOX = "/bin/busybox"
PR_SET_PDEATHSIG = 1
PASSED_ON = ("TERM", "LANG", "HF_E2E_SEED")


class VmError(Exception):
    """The VM came to no exit code: says what it came to."""


def cpio_entry(name, mode, content=b""):
    """One file of an initramfs, in the format that the kernel calls newc."""
    encoded = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + "".join(f"{field:08x}" for field in fields).encode() + encoded
    head += b"\0" * (-len(head) % 4)
    return head + content + b"\0" * (-len(content) % 4)


def initramfs(kernel):
    def content(*path):
        with open(os.path.join(*path), "rb") as file:
            return file.read()

    folders = ("bin", "dev", "proc", "sys", "host", "layer", "root", "modules")
    parts = [cpio_entry(folder, 0o40755) for folder in folders]
    parts.append(cpio_entry("bin/busybox", 0o100755, content(BUSYBOX)))
    parts.append(cpio_entry("init", 0o100755, content(HERE, "init")))
    for name in sorted(os.listdir(os.path.join(kernel, "modules"))):
        parts.append(cpio_entry(f"modules/{name}", 0o100644, content(kernel, "modules", name)))
    parts.append(cpio_entry("TRAILER!!!", 0))
    return b"".join(parts)


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Vm:
    """One VM, running `command`. `number` is 1, or 2 for the second of two that are joined by a link."""

    def __init__(self, kernel, folder, command, number=1, joined=False, memory="2G", words=(), interactive=False):
        self.folder = os.path.join(folder, f"vm{number}")
        self.share = os.path.join(self.folder, "mnt")
        os.makedirs(self.share)
        with open(os.path.join(self.folder, "initramfs"), "wb") as file:
            file.write(initramfs(kernel))
        with open(os.path.join(self.share, "command"), "w", encoding="utf-8") as file:
            file.write(self.script(command, number))
        if interactive:
            with open(os.path.join(self.share, "interactive"), "wb"):
                pass
        self.said = open(os.path.join(self.folder, "qemu"), "w+", encoding="utf-8", errors="replace")
        self.process = subprocess.Popen(
            self.arguments(kernel, memory, words, self.link(folder, number) if joined else []),
            stdin=None if interactive else subprocess.DEVNULL, stdout=None if interactive else subprocess.PIPE,
            stderr=self.said, preexec_fn=die_with_parent)

    @staticmethod
    def script(command, number):
        variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root",
                     "TESTBED_VM": number, "TESTBED_ADDRESS": f"10.77.0.{number}",
                     "TESTBED_PEER": f"10.77.0.{3 - number}"}
        variables.update((name, os.environ[name]) for name in PASSED_ON if name in os.environ)
        lines = [f"export {name}={shlex.quote(str(value))}" for name, value in variables.items()]
        return "\n".join(lines + [f"{shlex.quote(os.path.join(HERE, 'network'))} || exit 124",
                                  f"cd {shlex.quote(os.getcwd())} || exit 124", f"exec {shlex.join(command)}", ""])

    @staticmethod
    def link(folder, number):
        """Datagrams between two sockets: either VM may be there first."""
        mine, other = (os.path.join(folder, f"link{n}") for n in (number, 3 - number))
        return ["-netdev", f"dgram,id=link,local.type=unix,local.path={mine},remote.type=unix,remote.path={other}",
                "-device", f"virtio-net-pci,netdev=link,mac=52:54:00:00:00:0{number},host_mtu=9000,romfile="]

    def arguments(self, kernel, memory, words, link):
        # Neither zeroing of what is allocated anyway nor guards against what is not there: both are slow here.
        words = ["console=ttyS0", "quiet", "panic=-1", "init_on_alloc=0", "mitigations=off", *words]
        return ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi,tb-size=512",
                # Emulated, string moves are slow where the CPU says that they are fast.
                "-cpu", "max,-erms", "-smp", "2", "-m", memory, "-nodefaults", "-no-user-config", "-display", "none",
                "-no-reboot", "-kernel", os.path.join(kernel, "vmlinux"),
                "-initrd", os.path.join(self.folder, "initramfs"), "-append", " ".join(words),
                "-serial", f"file:{self.folder}/console", "-chardev", "stdio,id=output,signal=off",
                "-serial", "chardev:output",
                "-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
                "-device", "virtio-9p-pci,fsdev=root,mount_tag=root",
                "-fsdev", f"local,id=mnt,path={self.share},security_model=none",
                "-device", "virtio-9p-pci,fsdev=mnt,mount_tag=mnt", *link]

    def kill(self):
        self.process.kill()

    def exit_code(self):
        """Waits for the VM's end. A VM that panics, or is killed, leaves no exit code."""
        ended = self.process.wait()
        try:
            with open(os.path.join(self.share, "rc"), encoding="ascii") as file:
                return int(file.read())
        except (FileNotFoundError, ValueError):
            pass
        self.said.seek(0)
        lines = [f"QEMU: {line}" for line in self.said.read().splitlines()]
        console = os.path.join(self.folder, "console")
        if os.path.exists(console):
            with open(console, encoding="utf-8", errors="replace") as file:
                lines += file.read().splitlines()[-30:]
        raise VmError("\n".join([f"the VM ended without an exit code (QEMU's was {ended})", *lines]))

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.said.close()
