# SPDX-License-Identifier: Apache-2.0
"""Pre-copy and hybrid moves, on a kernel that tracks writes."""
import precopy
from host import M
from machine import address, over

MEM = 64 * M
SCHEMES = ("tcp",)  # rdma: refuses pre-copy


def begun(host, scheme, guest, *options, **more):
    host.listen = address(scheme)
    return precopy.Move(host, guest, *options, mem=MEM, **more)


def a_guest_that_reads_moves_before_it_stops(scheme):
    def case(host):
        giver, taker = begun(host, scheme, precopy.IDLE, "--precopy").completes()
        assert giver["precopy"]["rounds"] >= 1 and taker["precopy_rounds"] == giver["precopy"]["rounds"], giver
        assert giver["precopy"]["moved_bytes"] > 0.9 * giver["sent_bytes"], giver
    return case


def a_guest_that_writes_moves_in_rounds_and_by_faults(scheme):
    def case(host):
        giver, taker = begun(host, scheme, precopy.FAST, "--precopy", "--downtime-limit", 1).completes()
        assert giver["precopy"]["rounds"] >= 1, giver
        assert taker["postcopy_time_ns"] > 0, taker
    return case


CASES = [
    *over(("tcp",), a_guest_that_reads_moves_before_it_stops),
    *over(("tcp",), a_guest_that_writes_moves_in_rounds_and_by_faults),
]
