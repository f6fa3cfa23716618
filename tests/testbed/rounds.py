# SPDX-License-Identifier: Apache-2.0
"""Pre-copy and hybrid moves, on a kernel that tracks writes."""
import precopy
from host import M
from machine import SCHEMES, address, over

MEM = 64 * M


def begun(host, scheme, guest, *options, **more):
    return precopy.Move(host, guest, *options, mem=MEM, listen=address(scheme), **more)


def a_guest_that_reads_moves_before_it_stops(scheme):
    def case(host):
        giver, taker = begun(host, scheme, precopy.IDLE, "--precopy").completes()
        assert giver["precopy"]["rounds"] >= 1 and taker["precopy_rounds"] == giver["precopy"]["rounds"], giver
        assert taker["precopy_bytes"] >= taker["pages_fetched"] * 2 * M, taker
    return case


def a_guest_that_writes_moves_in_rounds_and_by_faults(scheme):
    def case(host):
        giver, taker = begun(host, scheme, precopy.FAST, "--precopy", "--downtime-limit", 1).completes()
        assert giver["precopy"]["rounds"] >= 1, giver
        assert taker["postcopy_time_ns"] > 0, taker
    return case


def without_postcopy_no_page_is_missing_when_it_runs(scheme):
    def case(host):
        giver, taker = begun(host, scheme, precopy.SLOW, "--precopy-only", "--downtime-limit", 60000).completes()
        assert giver["precopy"]["rounds"] >= 1, giver
        assert taker["postcopy_time_ns"] is None, taker
    return case


CASES = [
    *over(SCHEMES, a_guest_that_reads_moves_before_it_stops),
    *over(SCHEMES, a_guest_that_writes_moves_in_rounds_and_by_faults),
    *over(SCHEMES, without_postcopy_no_page_is_missing_when_it_runs),
]
