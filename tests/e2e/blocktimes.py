# SPDX-License-Identifier: Apache-2.0
"""Blocktime beside what others saw of the same waits; how far they agree is for perf/blocktime.py to say."""
import os
import sys

from host import M

sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "perf"))

from blocktime import kernel_view, move  # noqa: E402

HELD = ("--no-background",)


def the_guest_saw_its_vcpus_wait(host):
    found = move(host, 64 * M, 1, "continue", HELD, None)
    assert found["faults"] >= 30 and found["reported_us"] > 0 and found["guest_us"] > 0, found


def the_kernel_timed_a_wait_for_every_fault(host):
    """Of the testbed: its kernels have the tracer."""
    with kernel_view() as tracer:
        assert tracer, "no function graph tracer"
        found = move(host, 64 * M, 1, "continue", HELD, tracer)
    assert found["kernel_waits"] >= found["faults"] >= 30 and found["kernel_us"] > 0, found


CASES = [the_guest_saw_its_vcpus_wait]
