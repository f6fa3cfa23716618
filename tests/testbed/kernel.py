# SPDX-License-Identifier: Apache-2.0
"""The kernels the testbed boots: Debian's own packages, fetched once, never installed.

What is kept of a package is the uncompressed kernel, which QEMU boots in seconds (PVH), and the modules that are loaded
with all they need, in the order in which they can be loaded.
"""
import hashlib
import lzma
import os
import re
import struct
import subprocess

import debian
from debian import NoPackage

# crc32_generic: RoCE's check sum, asked for at run time, so that no dependency names it.
MODULES = ("virtio_pci", "virtio_net", "9pnet_virtio", "9p", "overlay", "dummy", "crc32_generic", "rdma_rxe", "rdma_ucm",
           "kvm_amd", "virtio_blk", "virtio_rng", "virtio_balloon")
# What follows the release's codename in the suites a kernel is taken from.
SUITES = {"default": ("", "-updates", "-security"), "backports": ("-backports",)}
BZIMAGE_SETUP_SECTORS, BZIMAGE_PAYLOAD = 0x1f1, 0x248
XZ, ZSTD = b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"


def download(kind, folder):
    """Returns the path of the package and the name of the kernel in it."""
    apt = debian.Apt(folder, SUITES[kind])
    match = re.search(r"Depends: (linux-image-(\S+))", apt.depends("linux-image-amd64"))
    if not match:
        raise NoPackage(f"linux-image-amd64 is in none of apt's sources for the kernel '{kind}'")
    return apt.download(match.group(1)), match.group(2)


def uncompressed(image):
    """The kernel itself out of a bzImage."""
    with open(image, "rb") as file:
        data = file.read()
    offset, length = struct.unpack_from("<II", data, BZIMAGE_PAYLOAD)
    start = (data[BZIMAGE_SETUP_SECTORS] + 1) * 512 + offset
    payload = data[start:start + length]
    if payload.startswith(XZ):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(ZSTD):
        # Four bytes of length follow the frame.
        return subprocess.run(["zstd", "-d", "-c"], input=payload[:-4], stdout=subprocess.PIPE, check=True).stdout
    raise NoPackage(f"{image} is compressed in a way the testbed does not know ({payload[:6].hex()})")


class Modules:
    """The modules of an unpacked kernel, and what each of them needs."""

    def __init__(self, folder):
        self.paths = {}
        for place, _, names in os.walk(os.path.join(folder, "kernel")):
            for name in names:
                if name.endswith((".ko", ".ko.xz")):
                    self.paths[name.split(".ko")[0].replace("-", "_")] = os.path.join(place, name)
        with open(os.path.join(folder, "modules.builtin"), encoding="utf-8") as file:
            self.builtin = {os.path.basename(line.strip())[:-3].replace("-", "_") for line in file}

    def content(self, name):
        path = self.paths[name]
        with (lzma.open if path.endswith(".xz") else open)(path, "rb") as file:
            return file.read()

    def in_order(self, wanted):
        """(name, content) of each module, after those it depends on."""
        done = {}

        def add(name):
            if name in done or name in self.builtin:
                return
            if name not in self.paths:
                raise NoPackage(f"the kernel package has no module '{name}'")
            content = self.content(name)
            depends = re.search(rb"\0depends=([^\0]*)\0", b"\0" + content)
            for other in filter(None, (depends.group(1).decode() if depends else "").split(",")):
                add(other.replace("-", "_"))
            done[name] = content

        for name in wanted:
            add(name)
        return done.items()


def get(kind, cache):
    """The folder of this kernel: `vmlinux` and `modules/`. Fetched when it is not there."""
    def make(scratch, made):
        packages, release = download(kind, scratch)
        unpacked = os.path.join(scratch, "unpacked")
        debian.unpack(packages, unpacked)
        os.makedirs(os.path.join(made, "modules"))
        modules = Modules(os.path.join(unpacked, "lib/modules", release))
        for number, (name, content) in enumerate(modules.in_order(MODULES)):
            with open(os.path.join(made, "modules", f"{number:02}-{name}.ko"), "wb") as file:
                file.write(content)
        with open(os.path.join(made, "vmlinux"), "wb") as file:
            file.write(uncompressed(os.path.join(unpacked, f"boot/vmlinuz-{release}")))

    # Another list of modules is another folder.
    return debian.once(cache, f"{kind}-{hashlib.sha256(' '.join(MODULES).encode()).hexdigest()[:8]}", make)
