# SPDX-License-Identifier: Apache-2.0
"""The kernels the testbed boots: Debian's own packages, fetched once, never installed.

A kernel package is downloaded with a private apt configuration made from the machine's sources; nothing outside the
cache folder changes. What is kept of it is the uncompressed kernel, which QEMU boots in seconds (PVH), and the modules
the testbed loads with all they need, in the order in which they can be loaded.
"""
import fcntl
import hashlib
import lzma
import os
import re
import shutil
import struct
import subprocess
import tempfile

# crc32_generic: RoCE's check sum, asked for at run time, so that no dependency names it.
MODULES = ("virtio_pci", "virtio_net", "9pnet_virtio", "9p", "overlay", "dummy", "crc32_generic", "rdma_rxe", "rdma_ucm",
           "kvm_amd", "virtio_blk", "virtio_balloon")
# What follows the release's codename in the suites a kernel is taken from.
SUITES = {"default": ("", "-updates", "-security"), "backports": ("-backports",)}
BZIMAGE_SETUP_SECTORS, BZIMAGE_PAYLOAD = 0x1f1, 0x248
XZ, ZSTD = b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"


class NoKernel(Exception):
    """Says to an operator why there is no kernel to boot, and what to do."""


def codename():
    with open("/etc/os-release", encoding="utf-8") as file:
        match = re.search(r"^VERSION_CODENAME=(\w+)$", file.read(), re.MULTILINE)
    if not match:
        raise NoKernel("/etc/os-release names no release: the testbed takes its kernels from Debian")
    return match.group(1)


def source_files(suffix):
    folder = "/etc/apt/sources.list.d"
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    paths = [os.path.join(folder, name) for name in names if name.endswith(suffix)]
    if suffix == ".list":
        paths.insert(0, "/etc/apt/sources.list")
    for path in paths:
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                yield file.read()


def derived_suites(named, release, endings):
    """An entry that has the release itself has its -backports too, whether anybody uses them or not."""
    wanted = [release + ending for ending in endings]
    if release in named and wanted == [release + "-backports"]:
        return wanted
    return [suite for suite in named if suite in wanted]


def write_sources(folder, release, endings):
    """Entries of the machine's own sources, in either of apt's formats, with the suites that are wanted."""
    stanzas, lines = [], []
    for text in source_files(".sources"):
        for stanza in re.split(r"\n\s*\n", text):
            stanza = "".join(line + "\n" for line in stanza.splitlines() if line and not line.startswith("#"))
            match = re.search(r"^Suites:(.*)$", stanza, re.MULTILINE)
            suites = derived_suites(match.group(1).split(), release, endings) if match else []
            if suites:
                stanzas.append(stanza.replace(match.group(0), f"Suites: {' '.join(suites)}"))
    for text in source_files(".list"):
        for match in re.finditer(r"^(deb\s+(?:\[[^]]*\]\s+)?\S+)\s+(\S+)\s+(.*)$", text, re.MULTILINE):
            lines += [f"{match.group(1)} {suite} {match.group(3)}\n"
                      for suite in derived_suites([match.group(2)], release, endings)]
    if not stanzas and not lines:
        raise NoKernel(f"no source of apt has the suite {release}: the testbed takes its kernels from there")
    for name, parts, between in (("testbed.sources", stanzas, "\n"), ("testbed.list", lines, "")):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(between.join(parts))


def run(*command, **more):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          encoding="utf-8", errors="replace", check=False, **more)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise NoKernel(f"{' '.join(command[:1] + command[-2:])} failed: {said}")
    return done.stdout


def download(kind, folder):
    """Returns the path of the package and the name of the kernel in it."""
    for part in ("sources", "lists/partial", "cache/archives/partial"):
        os.makedirs(os.path.join(folder, part))
    write_sources(os.path.join(folder, "sources"), codename(), SUITES[kind])
    options = ["-q", "-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={folder}/sources",
               "-o", f"Dir::State::lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache",
               "-o", "APT::Sandbox::User=root"]
    run("apt-get", *options, "update")
    match = re.search(r"Depends: (linux-image-(\S+))", run("apt-cache", *options, "depends", "linux-image-amd64"))
    if not match:
        raise NoKernel(f"linux-image-amd64 is in none of apt's sources for the kernel '{kind}'")
    run("apt-get", *options, "download", match.group(1), cwd=folder)
    return next(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".deb")), match.group(2)


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
    raise NoKernel(f"{image} is compressed in a way the testbed does not know ({payload[:6].hex()})")


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
                raise NoKernel(f"the kernel package has no module '{name}'")
            content = self.content(name)
            depends = re.search(rb"\0depends=([^\0]*)\0", b"\0" + content)
            for other in filter(None, (depends.group(1).decode() if depends else "").split(",")):
                add(other.replace("-", "_"))
            done[name] = content

        for name in wanted:
            add(name)
        return done.items()


def prepare(kind, target):
    """Fills a folder that comes into being whole."""
    scratch = tempfile.mkdtemp(prefix="new-", dir=os.path.dirname(target))
    try:
        package, release = download(kind, scratch)
        unpacked, made = os.path.join(scratch, "unpacked"), os.path.join(scratch, "made")
        run("dpkg-deb", "-x", package, unpacked)
        os.makedirs(os.path.join(made, "modules"))
        modules = Modules(os.path.join(unpacked, "lib/modules", release))
        for number, (name, content) in enumerate(modules.in_order(MODULES)):
            with open(os.path.join(made, "modules", f"{number:02}-{name}.ko"), "wb") as file:
                file.write(content)
        with open(os.path.join(made, "vmlinux"), "wb") as file:
            file.write(uncompressed(os.path.join(unpacked, f"boot/vmlinuz-{release}")))
        os.rename(made, target)
    finally:
        shutil.rmtree(scratch)


def get(kind, cache):
    """The folder of this kernel: `vmlinux` and `modules/`. Fetched when it is not there."""
    # Another list of modules is another folder.
    key = hashlib.sha256(" ".join(MODULES).encode()).hexdigest()[:8]
    target = os.path.join(cache, f"{kind}-{key}")
    os.makedirs(cache, exist_ok=True)
    with open(os.path.join(cache, "lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(target):
            prepare(kind, target)
    return target
