# SPDX-License-Identifier: Apache-2.0
"""VMs of the testbed: QEMU, without KVM, with a kernel of kernel.py and the host's root as its own.

The VM's root is the host's, read-only, below a layer in memory (see `init`), so that a program is run as it was built
on the host and nothing is built again. A folder of the host is /mnt in all VMs. Output of the command comes over the
second serial line; the kernel's console, the first one, is kept apart and shown if the VM ends without an exit code.
"""
import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading

import kernel as kernels

HERE = os.path.dirname(os.path.abspath(__file__))
BUSYBOX, QEMU = "/bin/busybox", "qemu-system-x86_64"
CACHE = "/var/cache/hugeferry-testbed"
PR_SET_PDEATHSIG = 1
PASSED_ON = ("TERM", "LANG", "HF_E2E_SEED")
CONSOLE_LINES = 20
# Each VM measures the clock of its CPUs anew, and a VM with KVM moves only where it ticks at the same rate.
SAME_CLOCK = ("tsc_early_khz=2500000", "tsc=unstable")


class VmError(Exception):
    """A VM came to no exit code: says what it came to."""


def cpio_entry(name, mode, content=b"", device=(0, 0)):
    """One file of an initramfs, in the format that the kernel calls newc."""
    encoded = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
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
    """One of `vms` VMs, with the number `number`, from 1 on. What they share lies in `folder`."""

    def __init__(self, kernel, folder, command, number, vms, memory, words, interactive):
        self.folder, self.share, self.number = folder, os.path.join(folder, "mnt"), number
        self.path = os.path.join(folder, f"vm{number}-")
        with open(os.path.join(self.share, f"command{number}"), "w", encoding="utf-8") as file:
            file.write(self.script(command))
        if interactive:
            with open(os.path.join(self.share, "interactive"), "wb"):
                pass
        self.said = open(self.path + "qemu", "w+", encoding="utf-8", errors="replace")
        self.process = subprocess.Popen(
            [*self.arguments(kernel, memory, words), *(self.link() if vms > 1 else [])],
            stdin=None if interactive else subprocess.DEVNULL, stdout=None if interactive else subprocess.PIPE,
            stderr=self.said, preexec_fn=die_with_parent)

    def script(self, command):
        variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root",
                     "TESTBED_VM": self.number, "TESTBED_ADDRESS": f"10.77.0.{self.number}",
                     "TESTBED_PEER": f"10.77.0.{3 - self.number}"}
        variables.update((name, os.environ[name]) for name in PASSED_ON if name in os.environ)
        lines = [f"export {name}={shlex.quote(str(value))}" for name, value in variables.items()]
        return "\n".join(lines + [f"{shlex.quote(os.path.join(HERE, 'network'))} || exit 124",
                                  f"cd {shlex.quote(os.getcwd())} || exit 124", f"exec {shlex.join(command)}", ""])

    def link(self):
        """Datagrams between two sockets: either VM may be there first."""
        mine, other = (os.path.join(self.folder, f"link{number}") for number in (self.number, 3 - self.number))
        return ["-netdev", f"dgram,id=link,local.type=unix,local.path={mine},remote.type=unix,remote.path={other}",
                "-device", f"virtio-net-pci,netdev=link,mac=52:54:00:00:00:0{self.number},host_mtu=9000,romfile="]

    def arguments(self, kernel, memory, words):
        # Neither zeroing of what is allocated anyway nor guards against what is not there: both are slow here.
        words = ["console=ttyS0", "quiet", "panic=-1", "init_on_alloc=0", "mitigations=off",
                 f"testbed_vm={self.number}", *SAME_CLOCK, *words]
        # One thread for all CPUs: before QEMU 8.1, one that translates code while another one writes it may keep what
        # was there before, and Linux patches its own code, by breakpoints. A VM ran into one for ever that had gone.
        return [QEMU, "-M", "q35", "-accel", "tcg,thread=single,tb-size=512",
                # Emulated, string moves are slow where the CPU says that they are fast.
                "-cpu", "max,-erms", "-smp", "2", "-m", memory, "-nodefaults", "-no-user-config", "-display", "none",
                "-no-reboot", "-kernel", os.path.join(kernel, "vmlinux"),
                "-initrd", os.path.join(self.folder, "initramfs"), "-append", " ".join(words),
                "-serial", f"file:{self.path}console", "-chardev", "stdio,id=output,signal=off",
                "-serial", "chardev:output",
                "-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
                "-device", "virtio-9p-pci,fsdev=root,mount_tag=root",
                "-fsdev", f"local,id=mnt,path={self.share},security_model=none",
                "-device", "virtio-9p-pci,fsdev=mnt,mount_tag=mnt"]

    def exit_code(self):
        """Waits for the VM's end. A VM that panics, or is killed, leaves no exit code; a panic is a success to QEMU."""
        ended = self.process.wait()
        try:
            with open(os.path.join(self.share, f"rc{self.number}"), encoding="ascii") as file:
                return int(file.read())
        except (FileNotFoundError, ValueError):
            raise VmError("\n".join([f"the VM ended without an exit code (QEMU's was {ended})",
                                     *self.last_words()])) from None

    def last_words(self):
        self.said.seek(0)
        lines = [f"QEMU: {line}" for line in self.said.read().splitlines()]
        if os.path.exists(self.path + "console"):
            with open(self.path + "console", encoding="utf-8", errors="replace") as file:
                console = file.read().splitlines()
            lines += [line for line in console[:-CONSOLE_LINES] if "panic" in line] + console[-CONSOLE_LINES:]
        return lines

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self.said.close()


class Timer(threading.Timer):
    """Kills VMs that are still there when their time has passed, and knows that it did."""

    def __init__(self, limit_s, vms):
        super().__init__(limit_s, self.end)
        self.vms, self.late = vms, False

    def end(self):
        self.late = True
        for vm in self.vms:
            vm.process.kill()


def read_lines(vm, output):
    for line in vm.process.stdout:
        output(vm.number, line)


def run_in(folder, command, output, kernel="default", vms=1, memory="2G", words=(), timeout=300, cache=CACHE):
    for program in (QEMU, BUSYBOX):
        if not shutil.which(program):
            raise VmError(f"{program} is missing; deploy/packages.sh names the packages")
    kernel_folder = kernels.get(kernel, cache)
    os.mkdir(os.path.join(folder, "mnt"))
    with open(os.path.join(folder, "initramfs"), "wb") as file:
        file.write(initramfs(kernel_folder))
    running, readers = [], []
    timer = Timer(timeout, running)
    try:
        for number in range(1, vms + 1):
            running.append(Vm(kernel_folder, folder, command, number, vms, memory, words, interactive=not output))
        if output:
            timer.start()
            readers = [threading.Thread(target=read_lines, args=(vm, output)) for vm in running]
            for reader in readers:
                reader.start()
        return [vm.exit_code() for vm in running]
    except VmError as error:
        raise VmError(f"not within {timeout:g} s: {error}" if timer.late else str(error)) from error
    finally:
        timer.cancel()
        for vm in running:
            if vm.process.poll() is None:
                vm.process.kill()
        for reader in readers:
            reader.join()
        for vm in running:
            vm.close()


def run(command, output, **options):
    """Runs a command in VMs and returns its exit code in each.

    output(NUMBER-OF-THE-VM, LINE) is called from a thread of each VM. Without it this process's terminal is the VM's,
    and there is no time-out.
    """
    folder = tempfile.mkdtemp(prefix="hugeferry-testbed-", dir="/tmp")
    try:
        return run_in(folder, command, output, **options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
