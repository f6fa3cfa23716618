# SPDX-License-Identifier: Apache-2.0
"""Domains of deploy/libvirt/domain.xml, defined and started by libvirt, are moved; what libvirt makes of it."""
import json
import os
import signal
import socket
import struct
import uuid
import xml.etree.ElementTree as ElementTree

import kernel as kernels
from host import M, comes_true, wait_until
from libvirt import Libvirt
from qemu import move
from qemu_vm import CACHE, CPU, Qemu, check_guest, initramfs

DOMAIN = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
                      "deploy/libvirt/domain.xml")
SPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
QEMU = "{" + SPACE + "}"
PLACES = "/run/hugeferry/vm1."
MEM = 256
PAGES = 2 * MEM // 2 + 96


def built(host, installed):
    """The file of the build that is installed there."""
    with open(os.path.join(host.build, "meson-info/intro-installed.json"), encoding="utf-8") as file:
        return next(path for path, place in json.load(file).items() if place == installed)


class Process:
    """libvirt's child, looked at through /proc."""

    def __init__(self, path):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        self.pid = struct.unpack("3i", credentials)[0]

    def poll(self):
        return None if os.path.exists(f"/proc/{self.pid}") else -signal.SIGKILL

    def wait(self, limit_s):
        assert comes_true(lambda: self.poll() is not None, limit_s)
        return self.poll()


class Domain(Qemu):
    def __init__(self, host, libvirt, name, incoming=False):
        # No Qemu.__init__: who starts it is libvirt.
        self.host, self.libvirt, self.name, self.page_size, self.incoming = host, libvirt, name, 2 * M, incoming
        self.qmp_path, self.monitor, self.attach, self.serial = (
            host.name(what) for what in ("qmp", "monitor", "attach", "serial"))
        self.uuid = str(uuid.uuid4())
        libvirt.define(name, self.text())
        libvirt.do("start", name, *(["--paused"] if incoming else []))
        wait_until(lambda: comes_true(lambda: os.path.exists(self.monitor), 1), "QEMU answers")
        self.process = Process(self.monitor)
        wait_until(self.answers, "QEMU answers")

    def text(self):
        """The file, with a guest of its own, names of its own, and a monitor for the tests."""
        ElementTree.register_namespace("qemu", SPACE)
        root = ElementTree.parse(DOMAIN).getroot()
        root.set("type", "qemu")
        root.find("name").text = self.name
        ElementTree.SubElement(root, "uuid").text = self.uuid
        for tag, text, attributes in (("memory", MEM, {"unit": "MiB"}), ("vcpu", 2, {})):
            root.find(tag).text = str(text)
            root.find(tag).attrib.update(attributes)
        kernel = os.path.join(kernels.get("default", CACHE), "vmlinux")
        for tag, text in (("kernel", kernel), ("initrd", initramfs(self.host)),
                          ("cmdline", "console=ttyS0 quiet panic=-1 mitigations=off")):
            ElementTree.SubElement(root.find("os"), tag).text = text
        cpu = ElementTree.SubElement(root, "cpu", mode="custom", match="exact", check="none")
        ElementTree.SubElement(cpu, "model", fallback="forbid").text = CPU
        serial = ElementTree.SubElement(root.find("devices"), "serial", type="file")
        ElementTree.SubElement(serial, "source", path=self.serial)
        words = root.find(QEMU + "commandline")
        more = [] if not self.incoming else ["-incoming", "defer"]
        for word in ("-qmp", f"unix:{self.monitor},server=on,wait=off", *more):
            ElementTree.SubElement(words, QEMU + "arg", value=word)
        for entry in (*words.iter(QEMU + "arg"), *words.iter(QEMU + "env")):
            value = entry.get("value").replace(PLACES + "qmp", self.qmp_path).replace(PLACES + "attach", self.attach)
            entry.set("value", built(self.host, value) if entry.get("name") == "LD_PRELOAD" else value)
        return ElementTree.tostring(root, encoding="unicode")

    def state(self):
        return self.libvirt.do("domstate", "--reason", self.name)


def a_domain_of_libvirts_is_moved_as_its_file_says(host):
    host.need(2 * M, PAGES)
    libvirt = Libvirt(host, host.mount(2 * M))
    source, destination = Domain(host, libvirt, "vm1"), Domain(host, libvirt, "vm1-arrives", incoming=True)
    source.wait_runs()
    assert (source.state(), destination.state()) == ("running (booted)", "paused (user)")
    report = move(host, source, destination, send_options=("--precopy", "--attach", source.attach))
    assert [block["idstr"] for block in report["blocks"]] == ["pc.ram"], report
    check_guest(source, destination)
    # libvirt hears of both from the QEMUs.
    wait_until(lambda: source.state() == "shut off (crashed)", "libvirt says that the source has ended")
    wait_until(lambda: destination.state() == "running (unpaused)", "libvirt says that the destination runs")
    # It is a domain like any other now, and starts without -incoming when it is defined so.
    for action, state in (("suspend", "paused"), ("resume", "running")):
        libvirt.do(action, destination.name)
        assert destination.status() == destination.state().split()[0] == state
    destination.incoming = False
    libvirt.define(destination.name, destination.text())
    check_guest(source, destination)
    libvirt.do("destroy", destination.name)
    assert destination.state() == "shut off (destroyed)"
    assert "-incoming" not in libvirt.do("domxml-to-native", "qemu-argv", "--domain", destination.name)


CASES = [
    a_domain_of_libvirts_is_moved_as_its_file_says,
]
