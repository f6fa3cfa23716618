#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the testbed's cases: cases.py BUILD-DIRECTORY [PART-OF-A-NAME...]. Prints TAP.

Cases that want the same kind of VM are a group: one VM, or two joined by a link, is started and runs them all. In it
this program runs again, as cases.py --in-vm GROUP BUILD-DIRECTORY NAME... A case of two VMs runs in both, as two
parts, and is well if both are. A case that a VM has not come to is failed.
"""
import os
import re
import signal
import sys
from collections import namedtuple

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "e2e"), os.path.join(os.path.dirname(HERE), "peer")]

import beside_perftest  # noqa: E402
import blocktimes  # noqa: E402
import facts_hold  # noqa: E402
import gigantic  # noqa: E402
import rdma_moves  # noqa: E402
import roce  # noqa: E402
import rounds  # noqa: E402
import two_hosts  # noqa: E402
import whole_moves  # noqa: E402
from debian import NoPackage  # noqa: E402
from host import Host  # noqa: E402
from one_case import run_case  # noqa: E402
from vm import VmError, run  # noqa: E402

Group = namedtuple("Group", "name options cases")
GROUPS = (
    Group("6.1", {"kernel": "default", "memory": "2G"},
          roce.CASES + facts_hold.cases("default") + whole_moves.CASES + rdma_moves.CASES +
          beside_perftest.CASES),
    Group("6.12", {"kernel": "backports", "memory": "2G"},
          facts_hold.cases("backports") + whole_moves.CASES + rounds.CASES +
          [blocktimes.the_kernel_timed_a_wait_for_every_fault]),
    Group("two-hosts", {"kernel": "default", "memory": "1G", "vms": 2}, two_hosts.CASES + rdma_moves.OF_TWO_HOSTS),
    Group("gigantic", {"kernel": "default", "memory": "6500M",
                       "words": ["hugepagesz=1G", f"hugepages={gigantic.PAGES}"]}, gigantic.CASES),
)
RESULT = re.compile(rb"(ok|not ok) \d+ - (\w+)(.*)")


class Stopped(BaseException):
    pass


def stop(*_):
    raise Stopped


def in_vm(name, build, wanted):
    group = next(group for group in GROUPS if group.name == name)
    host = Host(build)
    try:
        for number, case in enumerate((case for case in group.cases if case.__name__ in wanted), 1):
            run_case(host, number, case)
    finally:
        host.close()


class Results:
    """What VMs say, as one stream of TAP."""

    def __init__(self, vms):
        self.vms, self.told, self.failed = vms, {}, 0

    def say(self, result, name, rest=""):
        Results.number += 1
        self.failed += result != "ok"
        print(f"{result} {Results.number} - {name}{rest}", flush=True)

    number = 0

    def hear(self, vm, line):
        match = RESULT.match(line)
        if not match:
            text = line.decode(errors="replace").rstrip()
            print(text if text.startswith("#") else f"# {text}", flush=True)
            return
        result, name, rest = (part.decode() for part in match.groups())
        told = self.told.setdefault(name, {})
        told[vm] = result
        if len(told) == self.vms:
            self.say("ok" if set(told.values()) == {"ok"} else "not ok", name, rest)

    def end(self, names):
        for name in names:
            if len(self.told.get(name, ())) < self.vms:
                self.say("not ok", name)


def run_group(group, build, names):
    results = Results(group.options.get("vms", 1))
    print(f"# {group.name}", flush=True)
    try:
        codes = run([os.path.abspath(__file__), "--in-vm", group.name, build, *names], results.hear, **group.options)
        if any(codes):
            print(f"# the VM's cases ended with {codes}", flush=True)
    except (NoPackage, VmError, OSError) as error:
        for line in str(error).splitlines():
            print(f"# {line}", flush=True)
    results.end(names)
    return results.failed


def main():
    if sys.argv[1] == "--in-vm":
        in_vm(sys.argv[2], sys.argv[3], set(sys.argv[4:]))
        return 0
    build, parts = os.path.abspath(sys.argv[1]), sys.argv[2:]
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    chosen = [(group, [case.__name__ for case in group.cases
                       if not parts or any(part in f"{group.name} {case.__name__}" for part in parts)])
              for group in GROUPS]
    print(f"1..{sum(len(names) for _, names in chosen)}", flush=True)
    failed = sum(run_group(group, build, names) for group, names in chosen if names)
    return 0 if Results.number and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
