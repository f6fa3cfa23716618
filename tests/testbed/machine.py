# SPDX-License-Identifier: Apache-2.0
"""What cases in a VM of the testbed need of it, beside what end-to-end tests need of any host."""
import itertools
import os
import subprocess

from host import wait_until

ADDRESS, PEER = os.environ.get("TESTBED_ADDRESS"), os.environ.get("TESTBED_PEER")
SCHEMES = ("tcp", "rdma")  # of the cases that are the same over any kind of address
PORTS = itertools.count(20000)


def address(scheme, of=ADDRESS, port=None):
    """Where to listen or to send to, over link0. A new port each time: a VM has nobody who would take it."""
    return f"{scheme}:{of}:{next(PORTS) if port is None else port}"


def said_by(*command):
    """What a command that must succeed has said."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", check=False,
                          timeout=60)
    assert done.returncode == 0, (command, done.returncode, done.stdout, done.stderr)
    return done.stdout


def wait_listens(process, what):
    """Until somebody listens for RDMA connections."""
    def look():
        assert process.poll() is None, f"{what} ended with {process.returncode}"
        return "state LISTEN" in said_by("rdma", "resource", "show", "cm_id")
    wait_until(look, f"{what} listens", 30)


def over(schemes, make, *arguments):
    """A case for each scheme: make(SCHEME, ...) returns a function, named after make and the arguments."""
    for scheme in schemes:
        case = make(scheme, *arguments)
        case.__name__ = "_".join([make.__name__, *(f"by_{a}" for a in arguments), "over", scheme])
        yield case
