# SPDX-License-Identifier: Apache-2.0
"""deploy/libvirt/domain.xml is right: QEMU is started with its environment and its arguments, and moved."""
import json
import os
import shutil
import xml.etree.ElementTree as ElementTree

from host import M, wait_until
from qemu import move
from qemu_devices import MEM, PAGES, Machine

DOMAIN = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
                      "deploy/libvirt/domain.xml")
QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
PLACES = "/run/hugeferry/vm1."


def domain():
    return ElementTree.parse(DOMAIN).getroot()


def environment():
    return {entry.get("name"): entry.get("value") for entry in domain().iter(QEMU + "env")}


def built(host, installed):
    """The file of the build that is installed there."""
    with open(os.path.join(host.build, "meson-info/intro-installed.json"), encoding="utf-8") as file:
        return next(path for path, place in json.load(file).items() if place == installed)


class Domain(Machine):
    """As libvirt would start it: no `hugeferry exec`, and a memory backend made of <memoryBacking>."""

    def __init__(self, host, incoming=False):
        self.host, self.page_size, self.incoming = host, 2 * M, incoming
        self.qmp_path, self.monitor, self.attach = (host.name(what) for what in ("qmp", "monitor", "attach"))
        self.ram = os.path.join(host.mount(self.page_size), os.path.basename(host.name("ram")))
        given = environment()
        given["LD_PRELOAD"] = built(host, given["LD_PRELOAD"])
        given["HUGEFERRY_ATTACH"] = self.here(given["HUGEFERRY_ATTACH"])
        backend = {"qom-type": "memory-backend-file", "id": "pc.ram", "mem-path": self.ram, "size": MEM * M,
                   "share": domain().find("memoryBacking/access").get("mode") == "shared",
                   "prealloc": domain().find("memoryBacking/allocation").get("mode") == "immediate",
                   "x-use-canonical-path-for-ramblock-id": False}
        self.process = host.start(
            shutil.which("qemu-system-x86_64"), "-S", "-m", f"{MEM}M", "-object", json.dumps(backend),
            "-machine", domain().find("os/type").get("machine") + ",memory-backend=pc.ram",
            "-accel", "tcg,tb-size=16", "-nodefaults", "-no-user-config", "-display", "none",
            "-device", "virtio-balloon-pci", "-qmp", f"unix:{self.monitor},server=on,wait=off",
            *[self.here(entry.get("value")) for entry in domain().iter(QEMU + "arg")],
            *(["-incoming", "defer"] if incoming else []), before_exec=lambda: os.environ.update(given))
        wait_until(self.answers, "QEMU answers")
        if not incoming:
            self.execute("cont")

    def here(self, word):
        return word.replace(PLACES + "qmp", self.qmp_path).replace(PLACES + "attach", self.attach)


def a_domain_of_libvirts_is_moved_as_its_file_says(host):
    assert set(environment()) == {"LD_PRELOAD", "HUGEFERRY_ATTACH"}
    host.need(2 * M, PAGES)
    source, destination = Domain(host), Domain(host, incoming=True)
    report = move(host, source, destination, send_options=("--precopy", "--attach", source.attach))
    assert [block["idstr"] for block in report["blocks"]] == ["pc.ram"], report
    assert destination.status() == "running"


CASES = [
    a_domain_of_libvirts_is_moved_as_its_file_says,
]
