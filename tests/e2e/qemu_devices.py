# SPDX-License-Identifier: Apache-2.0
"""Devices that reach guest memory by a way of their own: refused on both sides while the source runs on."""
import mmap
import os
import socket
import struct
import threading

from host import M, err_of, finish, listening_uri, one_line, receive, send, wait_until
from messages import READY
from qemu_vm import Qemu
from relay import Relay

MEM = 64
PAGES = 2 * MEM // 2 + 96  # a VM's, and what mem-lock=on fills
NOWHERE = "tcp:127.0.0.1:1"


class Machine(Qemu):
    """Only its firmware runs."""

    def __init__(self, host, *extra, incoming=False):
        super().__init__(host, incoming=incoming, blocks=(MEM,), extra=extra)

    def rest(self, vcpus):
        return ["-accel", "tcg,tb-size=16", "-nodefaults", "-no-user-config", "-display", "none",
                *self.qmp(), "-qmp", f"unix:{self.monitor},server=on,wait=off",
                *(["-S", "-incoming", "defer"] if self.incoming else [])]

    def passes(self):
        return [1]


class VhostUser(threading.Thread):
    """A back end that offers nothing but to be one."""

    ANSWERS = {1: 1 << 32, 15: 0, 17: 1}  # features: VIRTIO_F_VERSION_1; protocol features; queues

    def __init__(self, path):
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.start()

    def run(self):
        with self.listener, self.listener.accept()[0] as peer:
            while len(head := peer.recv(12, socket.MSG_WAITALL)) == 12:
                request, _, length = struct.unpack("<III", head)
                if length:
                    peer.recv(length, socket.MSG_WAITALL)
                if request in self.ANSWERS:
                    peer.sendall(struct.pack("<IIIQ", request, 5, 8, self.ANSWERS[request]))


def virtio_mem(host):
    path = os.path.join(host.mount(2 * M), os.path.basename(host.name("vmem")))
    return ("-m", f"{MEM}M,maxmem=1G", "-object", f"memory-backend-file,id=vmem,size=64M,mem-path={path},share=on",
            "-device", "virtio-mem-pci,id=grows,memdev=vmem,requested-size=0"), ("grows", "virtio-mem-pci")


def vhost_user(host):
    path = host.name("vhost")
    VhostUser(path)
    return ("-chardev", f"socket,id=back,path={path}", "-netdev", "vhost-user,id=fast,chardev=back",
            "-device", "virtio-net-pci,netdev=fast"), ("fast", "vhost-user")


def shared_by_vms(host):
    path = os.path.join(host.mount(2 * M), os.path.basename(host.name("shared")))
    return ("-object", f"memory-backend-file,id=both,size=2M,mem-path={path},share=on",
            "-device", "ivshmem-plain,memdev=both"), ("device[0]", "ivshmem-plain")


def refused(device):
    def case(host):
        host.need(2 * M, PAGES)
        options, words = device(host)
        source = Machine(host, *options)
        code, said = finish(send(host, source, NOWHERE))
        assert code == 1
        one_line(said, source.qmp_path, *words, "take it out")
        assert source.status() == "running"
        source.process.kill()
        options, words = device(host)
        destination = Machine(host, *options, incoming=True)
        code, said = finish(receive(host, destination))
        assert code == 1
        one_line(said, destination.qmp_path, *words, "take it out")
        assert destination.status() == "inmigrate"
    case.__name__ = f"a_qemu_with_{device.__name__}_is_refused_on_both_sides"
    return case


def a_qemu_that_cannot_be_migrated_says_why_while_it_runs(host):
    host.need(2 * M, PAGES)
    source = Machine(host, "-device", "nvme,serial=1,id=fast")
    code, said = finish(send(host, source, NOWHERE))
    assert code == 1
    one_line(said, source.qmp_path, "non-migratable device", "nvme")
    assert source.status() == "running"


def a_qemu_with_mem_lock_on_is_refused_as_destination(host):
    host.need(2 * M, PAGES)
    destination = Machine(host, "-overcommit", "mem-lock=on", incoming=True)
    code, said = finish(receive(host, destination))
    assert code == 1
    one_line(said, destination.qmp_path, "mem-lock=on")


def rounds_are_refused_where_a_disk_is_read_past_the_page_tables(host):
    host.need(2 * M, PAGES)
    disk = host.name("disk")
    with open(disk, "wb") as file:
        file.truncate(M)
    source = Machine(host, "-blockdev", f"file,node-name=data,filename={disk},cache.direct=on",
                     "-device", "virtio-blk-pci,drive=data")
    code, said = finish(send(host, source, NOWHERE, "--precopy", "--attach", source.attach))
    assert code == 1
    one_line(said, source.qmp_path, "data", "cache.direct=on", "without --precopy")
    assert source.status() == "running"


def memory_that_is_added_on_the_way_brings_the_vm_back(host):
    """After the first look: the source's VM is stopped, and runs on there."""
    host.need(2 * M, PAGES)
    source, destination = Machine(host), Machine(host, incoming=True)
    taker = receive(host, destination)
    relay = Relay("tcp:127.0.0.1:0", listening_uri(taker))
    host.closing.append(relay.close)
    relay.stop_before = READY
    giver = send(host, source, relay.uri)
    wait_until(lambda: relay.held.is_set() or giver.poll() is not None, "the first look is over")
    source.execute("object-add", **{"qom-type": "memory-backend-ram", "id": "later", "size": 2 * M})
    relay.stop_before = None
    relay.open.set()
    code, said = finish(giver)
    assert code == 1
    one_line(said, source.qmp_path, "'later', which it had not", "the source VM runs on")
    assert source.status() == "running"
    assert finish(taker)[0] == 1


def nobody_plugs_in_a_device_while_qemu_migrates(host):
    """So devices are asked for once, when `migrate` has been accepted, while the VM still runs."""
    host.need(2 * M, PAGES)
    source = Machine(host, "-device", "pcie-root-port,id=empty")
    source.execute("migrate-set-parameters", **{"max-bandwidth": 1})
    source.execute("migrate", uri="exec:cat >/dev/null")
    try:
        source.execute("device_add", driver="virtio-rng-pci", id="later", bus="empty")
    except AssertionError as error:
        assert "not allowed while migrating" in str(error), error
    else:
        raise AssertionError("a device was plugged in")
    source.execute("migrate_cancel")


def memory_that_another_process_may_write_to_is_refused(host):
    """In rounds, whose tracking would not see it; and at the destination, where it would see half of the pages."""
    host.need(2 * M, PAGES)
    source = Machine(host)
    with open(source.ram, "r+b") as file, mmap.mmap(file.fileno(), MEM * M):
        code, said = finish(send(host, source, NOWHERE, "--precopy", "--attach", source.attach))
    assert code == 1
    one_line(said, "ram0", f"process {os.getpid()} ", "without --precopy")
    assert source.status() == "running"
    source.process.kill()
    destination = Machine(host, incoming=True)
    wait_until(lambda: os.path.getsize(destination.ram) == MEM * M, "the RAM file has its size")
    with open(destination.ram, "r+b") as file, mmap.mmap(file.fileno(), MEM * M):
        taker = receive(host, destination)
        code, said = finish(taker)
    assert code == 1, err_of(taker)
    one_line(said, "ram0", f"process {os.getpid()} ")
    assert destination.status() == "inmigrate"


CASES = [
    refused(virtio_mem),
    refused(vhost_user),
    refused(shared_by_vms),
    a_qemu_that_cannot_be_migrated_says_why_while_it_runs,
    a_qemu_with_mem_lock_on_is_refused_as_destination,
    memory_that_is_added_on_the_way_brings_the_vm_back,
    nobody_plugs_in_a_device_while_qemu_migrates,
    rounds_are_refused_where_a_disk_is_read_past_the_page_tables,
    memory_that_another_process_may_write_to_is_refused,
]
