# SPDX-License-Identifier: Apache-2.0
"""QEMUs, under KVM where the host has it, whose guest is the reference VMM's: kvm/guest/firmware.c leads into it, in place of a BIOS.

The guest lies in the RAM file before QEMU starts, so every byte of memory is known, and what looks at a reference
VMM's guest from outside looks at this one too. A vCPU's heartbeat is the low byte of a count that rises by one; it goes
through a debug port of its own into a file. What source and destination have written there, one behind the other, is
what a guest that was never moved would have written.
"""
import os
import subprocess
import sys

from host import M, Vmm, err_of, wait_until

sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "testbed"))

import emulator  # noqa: E402

ACCEL = "kvm" if os.path.exists("/dev/kvm") else "tcg,thread=multi"
BEAT_PORT = 0x402
PORT_USES = 4  # positions of the guest's counters
PATTERNS = {"sequential": 0, "random": 1, "hot": 2}


class FlatQemu(Vmm):
    def __init__(self, host, incoming=False, mem=256 * M, vcpus=2, pattern="random", write_percent=50, fill_percent=80,
                 qemu=None, lent=True, accel=ACCEL, extra=(), before_exec=None):
        """lent: with the attach library, and at the destination the VM waits for a `cont`."""
        # No Vmm.__init__: what it starts is another program.
        self.host, self.page_size, self.vcpus = host, 2 * M, vcpus
        self.qmp_path, self.monitor, self.attach = host.name("qmp"), host.name("monitor"), host.name("attach")
        self.ram = os.path.join(host.mount(self.page_size), os.path.basename(host.name("ram")))
        self.beat_paths = [host.name("beats") for _ in range(vcpus)]
        if not incoming:
            subprocess.run([os.path.join(host.build, "tests/e2e/load-guest"), self.ram, str(mem), str(self.page_size),
                            str(vcpus), str(PATTERNS[pattern]), str(write_percent), str(fill_percent),
                            str(BEAT_PORT)], check=True)
        launcher = [host.hugeferry, "exec", "--attach", self.attach, "--"] if lent else []
        qemu = qemu or emulator.Emulator()

        def prepare():
            os.environ.update(qemu.environment())
            if before_exec:
                before_exec()

        self.process = host.start(*launcher, qemu.program, *qemu.options, *self.words(mem, accel),
                                  *(["-incoming", "defer"] if incoming else []),
                                  *(["-S"] if incoming and lent else []), *extra, before_exec=prepare)
        wait_until(self.answers, "QEMU answers")
        if not incoming:
            self.wait_beats(1)

    def words(self, mem, accel):
        words = ["-accel", accel, "-m", f"{mem // M}M", "-smp", self.vcpus, "-nodefaults", "-no-user-config",
                 "-display", "none", "-machine", "q35,memory-backend=ram0",
                 "-object", f"memory-backend-file,id=ram0,size={mem // M}M,mem-path={self.ram},share=on,prealloc=off",
                 "-bios", os.path.join(self.host.build, "kvm/guest/guest-firmware.bin"),
                 "-qmp", f"unix:{self.qmp_path},server=on,wait=off", "-qmp", f"unix:{self.monitor},server=on,wait=off"]
        for vcpu, path in enumerate(self.beat_paths):
            words += ["-chardev", f"file,id=beat{vcpu},path={path}",
                      "-device", f"isa-debugcon,iobase={BEAT_PORT + vcpu},chardev=beat{vcpu}"]
        return words

    def beats(self, vcpu):
        with open(self.beat_paths[vcpu], "rb") as file:
            return file.read()

    def wait_beats(self, count):
        """Until each vCPU has told so often, in this QEMU, that it runs; looks at no memory, which may be missing."""
        def told():
            if self.process.poll() is not None:
                raise AssertionError(f"QEMU ended: {err_of(self.process)}")
            return all(len(self.beats(vcpu)) >= count for vcpu in range(self.vcpus))
        wait_until(told, "the guest's hearts beat")


def assert_one_guest(source, destination):
    """The VM stands still. No beat is missing or comes twice; the one under way may not have been counted."""
    counted = 0
    for vcpu in range(source.vcpus):
        beats = source.beats(vcpu) + destination.beats(vcpu)
        assert beats == bytes(beat & 0xff for beat in range(len(beats))), f"vCPU {vcpu}: {beats.hex()}"
        counted += len(beats)
    assert 0 <= counted - destination.counted(PORT_USES) <= source.vcpus
