# SPDX-License-Identifier: Apache-2.0
"""What a host or a program lacks is refused before anything stops; once it is there, the same VMs move."""
import ctypes
import os
import resource
import stat

from host import CLONE_NEWNS, LIBC, M, MS_PRIVATE_REC, Skip, Vmm, finish, one_line, out_of, receive
from refusals import moves, refused_by_both, two_vmms

CAP_IPC_LOCK = 14
CAP_SYS_PTRACE = 19
PR_CAPBSET_DROP = 24
MS_BIND = 0x1000
MPOL_BIND = 2
SYS_SET_MEMPOLICY = 238


def must(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def drop_for_good(capability):
    """Root gets at exec() what the bounding set leaves."""
    must(LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))


def little_locked_memory():
    drop_for_good(CAP_IPC_LOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (64 << 10, 64 << 10))


def no_kernel_faults():
    """A container's view: no CAP_SYS_PTRACE, and a /dev without userfaultfd."""
    kvm = os.stat("/dev/kvm").st_rdev if os.path.exists("/dev/kvm") else None
    must(LIBC.unshare(CLONE_NEWNS))
    must(LIBC.mount(None, b"/", None, MS_PRIVATE_REC, None))
    must(LIBC.mount(b"none", b"/dev", b"tmpfs", 0, None))
    if kvm:
        os.mknod("/dev/kvm", stat.S_IFCHR | 0o600, kvm)
    drop_for_good(CAP_SYS_PTRACE)


def a_memory_lock_limit_too_low_is_refused(host):
    source, destination = two_vmms(host)
    refused_by_both(host, source, destination, "limit is 64 KiB", "ulimit -l", "LimitMEMLOCK=", "CAP_IPC_LOCK",
                    before_exec=little_locked_memory)
    moves(host, source, destination)


def a_vmm_without_kernel_faults_is_refused(host):
    host.need(2 * M, 2048)
    source, destination = Vmm(host), Vmm(host, incoming=True, before_exec=no_kernel_faults)
    refused_by_both(host, source, destination, "CAP_SYS_PTRACE", "/dev/userfaultfd", "KVM needs them")


def a_receiver_without_kernel_faults_does_not_even_listen(host):
    host.need(2 * M, 2048)
    destination = Vmm(host, incoming=True)
    taker = receive(host, destination, before_exec=no_kernel_faults)
    code, said = finish(taker)
    assert code == 1 and out_of(taker) == "", (code, out_of(taker))
    one_line(said, "user-mode faults", "CAP_SYS_PTRACE", "/dev/userfaultfd")
    assert destination.status() == "inmigrate"
    moves(host, Vmm(host), destination)


def bound_to_node_0():
    nodes = ctypes.c_ulong(1)
    if LIBC.syscall(SYS_SET_MEMPOLICY, MPOL_BIND, ctypes.byref(nodes), 64):
        raise OSError(ctypes.get_errno(), "set_mempolicy")


def on_a_host_with_a_full_node_0(host):
    """The pages are on the host, but, the kernel says, on another node."""
    path = host.name("free_hugepages")
    with open(path, "w", encoding="ascii") as file:
        file.write("7\n")

    def before_exec():
        must(LIBC.unshare(CLONE_NEWNS))
        must(LIBC.mount(None, b"/", None, MS_PRIVATE_REC, None))
        counter = "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages"
        must(LIBC.mount(path.encode(), counter.encode(), None, MS_BIND, None))
    return before_exec


def pages_of_other_numa_nodes_do_not_count(host):
    host.need(2 * M, 2048)
    if not os.path.exists("/proc/self/numa_maps"):
        raise Skip("this kernel has no NUMA")
    source, destination = Vmm(host), Vmm(host, incoming=True, before_exec=bound_to_node_0)
    for placement in ("copy", "continue"):
        refused_by_both(host, source, destination, "'ram0'", "NUMA node 0", "121 huge pages of 2 MiB are missing",
                        "128 needed, 7 free", options=("--placement", placement),
                        before_exec=on_a_host_with_a_full_node_0(host))
    moves(host, source, destination)


CASES = [
    pages_of_other_numa_nodes_do_not_count,
    a_memory_lock_limit_too_low_is_refused,
    a_vmm_without_kernel_faults_is_refused,
    a_receiver_without_kernel_faults_does_not_even_listen,
]
