# SPDX-License-Identifier: Apache-2.0
"""The attach library in a VMM that nobody moves: it does nothing, and children of the VMM know nothing of it."""
import os

from host import M, finish, out_of
from qemu_vm import Qemu

ANOTHER = "libm.so.6"  # preloaded by somebody else


def children_of_a_vmm_go_without_the_library(host):
    """The shell has it; what the shell starts has not, and keeps what others have preloaded."""
    script = "grep -c hugeferry /proc/$$/maps; env; cat /proc/self/maps"
    process = host.start(host.hugeferry, "exec", "--attach", host.name("attach"), "--", "/bin/sh", "-c", script,
                         before_exec=lambda: os.environ.update(LD_PRELOAD=ANOTHER))
    code, said = finish(process)
    assert code == 0 and not said, said
    mapped, *child = out_of(process).splitlines()
    assert int(mapped) > 0, "the shell does not have the library either"
    assert f"LD_PRELOAD={ANOTHER}" in child
    ours = [line for line in child if "hugeferry" in line.lower().replace(host.folder, "")]
    assert not [line for line in ours if not line.startswith(("PWD=", "OLDPWD="))], ours


def thread_of(process, name):
    for thread in os.listdir(f"/proc/{process.pid}/task"):
        with open(f"/proc/{process.pid}/task/{thread}/comm", encoding="ascii") as file:
            if file.read().strip() == name:
                return thread
    raise AssertionError(f"the VMM has no thread {name}")


def switches(process, thread):
    """How often the thread has run and stopped."""
    with open(f"/proc/{process.pid}/task/{thread}/status", encoding="ascii") as file:
        return [line for line in file if "ctxt_switches" in line]


def flags_of(vm):
    """Of the mapping of the guest's memory."""
    with open(f"/proc/{vm.process.pid}/smaps", encoding="ascii") as file:
        _, _, behind = file.read().partition(vm.ram)
    return next(line for line in behind.splitlines() if line.startswith("VmFlags:")).split()


def the_library_does_nothing_until_an_agent_comes(host):
    host.need(2 * M, 128)
    vm = Qemu(host)
    thread = thread_of(vm.process, "hf-attach")
    before = switches(vm.process, thread)
    vm.wait_runs()
    assert before and switches(vm.process, thread) == before
    assert not {"um", "ui", "uw"} & set(flags_of(vm)), "the guest's memory is registered"


CASES = [
    children_of_a_vmm_go_without_the_library,
    the_library_does_nothing_until_an_agent_comes,
]
