#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs a command in a VM of the testbed: another kernel, soft-RoCE (rxe0 over link0), this host's programs.

    run.py [OPTIONS] [--] COMMAND [ARGUMENT...]

The command's output and exit code are this program's; on a terminal the command has it, so that `run.py bash` is a
shell. Whatever it writes is gone afterwards. It gets TESTBED_ADDRESS, the address of rxe0. With --vms 2 it runs in two
VMs joined by a link, TESTBED_VM (1 or 2) says in which one, TESTBED_PEER is the other one's address, /mnt is shared,
and the first exit code that is not 0 is this program's.
124: the VM's network could not be set up. 125: the testbed itself failed, and said why.
"""
import argparse
import os
import signal
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from debian import NoPackage  # noqa: E402
from kernel import SUITES  # noqa: E402
from vm import CACHE, VmError, run  # noqa: E402

TESTBED_FAILED = 125


class Stopped(BaseException):
    pass


def stop(*_):
    raise Stopped


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", choices=SUITES, default="default",
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


def main():
    given = options()
    words = ["hugepagesz=1G", f"hugepages={given.gigantic}", "hugepagesz=2M", f"hugepages={given.hugepages}"]

    def output(number, line):
        prefix = b"%d: " % number if given.vms > 1 else b""
        sys.stdout.buffer.write(prefix + line)
        sys.stdout.buffer.flush()

    signal.signal(signal.SIGTERM, stop)
    terminal = given.vms == 1 and sys.stdin.isatty() and sys.stdout.isatty()
    try:
        codes = run(given.command, None if terminal else output, kernel=given.kernel, vms=given.vms,
                    memory=given.memory, words=words, timeout=given.timeout, cache=given.cache)
        return next((code for code in codes if code), 0)
    except (NoPackage, VmError, OSError) as error:
        print(f"testbed: {error}", file=sys.stderr)
    except (KeyboardInterrupt, Stopped):
        print("testbed: stopped", file=sys.stderr)
    return TESTBED_FAILED


if __name__ == "__main__":
    sys.exit(main())
