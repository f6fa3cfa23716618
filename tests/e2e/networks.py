# SPDX-License-Identifier: Apache-2.0
"""Two hosts of their own: network namespaces joined by a veth whose rate tbf limits, both ways."""
import os
import subprocess

from host import LIBC, wait_until

CLONE_NEWNET = 0x40000000
ADDRESSES = "10.77.77.1", "10.77.77.2"


class Networks:
    """They end with the processes that hold them."""

    def __init__(self, host, rate):
        self.holders = [host.start("unshare", "--net", "sleep", "infinity") for _ in range(2)]
        for holder in self.holders:
            wait_until(lambda holder=holder: self.net(holder.pid) != self.net(os.getpid()), "there is a network")
        self.run(0, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns",
                 str(self.holders[1].pid))
        for number, address in enumerate(ADDRESSES):
            self.run(number, "ip", "addr", "add", f"{address}/24", "dev", "eth0")
            self.run(number, "ip", "link", "set", "eth0", "up")
            self.run(number, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "256kb",
                     "latency", "200ms")

    @staticmethod
    def net(pid):
        return os.readlink(f"/proc/{pid}/ns/net")

    def run(self, number, *command):
        subprocess.run(["nsenter", f"--net=/proc/{self.holders[number].pid}/ns/net", *command], check=True,
                       capture_output=True)

    def set_link(self, state):
        self.run(1, "ip", "link", "set", "eth0", state)

    def enter(self, number):
        """For a process between fork and exec."""
        def set_namespace():
            fd = os.open(f"/proc/{self.holders[number].pid}/ns/net", os.O_RDONLY)
            assert LIBC.setns(fd, CLONE_NEWNET) == 0
            os.close(fd)
        return set_namespace
