#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs a command in a VM of the testbed: another kernel, soft-RoCE (rxe0 over link0), this host's programs.

    run.py [OPTIONS] [--] COMMAND [ARGUMENT...]

The command's output and exit code are this program's. Whatever it writes is gone afterwards, but for /mnt. It gets
TESTBED_ADDRESS, the address of rxe0. With --vms 2 it runs in two VMs joined by a link, TESTBED_VM (1 or 2) says in
which one, TESTBED_PEER is the other one's address, and the first exit code that is not 0 is this program's.
124: the VM's network could not be set up. 125: the testbed itself failed, and said why.
"""
import argparse
import os
import shutil
import signal
import sys
import tempfile
import threading

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import kernel as kernels  # noqa: E402
from vm import BUSYBOX, Vm, VmError  # noqa: E402

CACHE = "/var/cache/hugeferry-testbed"
TESTBED_FAILED = 125


class Stopped(BaseException):
    pass


def stop(*_):
    raise Stopped


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", choices=kernels.SUITES, default="default",
                        help="the release's own kernel, or the one of its backports")
    parser.add_argument("--hugepages", type=int, default=0, metavar="N", help="huge pages of 2 MiB from the start")
    parser.add_argument("--gigantic", type=int, default=0, metavar="N", help="huge pages of 1 GiB from the start")
    parser.add_argument("--memory", default="2G", help="of one VM (2G)")
    parser.add_argument("--vms", type=int, choices=(1, 2), default=1)
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS", help="then VMs are killed (300)")
    parser.add_argument("--cache", default=CACHE, help=f"where kernels are kept ({CACHE})")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    given.command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not given.command:
        parser.error("no command")
    return given


def pass_on(vm, prefix):
    """The VM's output to ours, line by line where two VMs share it."""
    while data := vm.process.stdout.readline() if prefix else vm.process.stdout.read1():
        sys.stdout.buffer.write(prefix + data)
        sys.stdout.buffer.flush()


def run(given, folder):
    kernel = kernels.get(given.kernel, given.cache)
    words = ["hugepagesz=1G", f"hugepages={given.gigantic}", "hugepagesz=2M", f"hugepages={given.hugepages}"]
    interactive = given.vms == 1 and sys.stdin.isatty() and sys.stdout.isatty()
    vms, threads, late = [], [], threading.Event()

    def too_late():
        late.set()
        for vm in vms:
            vm.kill()

    timer = threading.Timer(given.timeout, too_late)
    try:
        for number in range(1, given.vms + 1):
            vms.append(Vm(kernel, folder, given.command, number, given.vms > 1, given.memory, words, interactive))
        if not interactive:
            timer.start()
            threads = [threading.Thread(target=pass_on, args=(vm, b"%d: " % number if given.vms > 1 else b""))
                       for number, vm in enumerate(vms, 1)]
            for thread in threads:
                thread.start()
        codes = [vm.exit_code() for vm in vms]
        return next((code for code in codes if code), 0)
    except VmError as error:
        raise VmError(f"not within {given.timeout:g} s: {error}" if late.is_set() else str(error)) from error
    finally:
        timer.cancel()
        for vm in vms:
            vm.close()
        for thread in threads:
            thread.join()


def main():
    given = options()
    for program in ("qemu-system-x86_64", BUSYBOX):
        if not shutil.which(program):
            print(f"testbed: {program} is missing; deploy/packages.sh names the packages", file=sys.stderr)
            return TESTBED_FAILED
    signal.signal(signal.SIGTERM, stop)
    folder = tempfile.mkdtemp(prefix="hugeferry-testbed-", dir="/tmp")
    try:
        return run(given, folder)
    except (kernels.NoKernel, VmError, OSError) as error:
        print(f"testbed: {error}", file=sys.stderr)
        return TESTBED_FAILED
    except (KeyboardInterrupt, Stopped):
        return TESTBED_FAILED
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
