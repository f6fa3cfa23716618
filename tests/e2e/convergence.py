# SPDX-License-Identifier: Apache-2.0
"""Rounds over a link of a known rate: what becomes of a guest that writes faster than it carries, and slower."""
import json

from host import M
from networks import Networks
from precopy import Move

LINK = "200mbit"  # 12 pages a second
FAST = ("--pattern", "sequential", "--write-share", 100)
SLOW = (*FAST, "--pace", 1)  # a page a second and vCPU
FITS = "the expected downtime is within the limit", "nothing is left to be moved"
DOES_NOT_SHRINK = ("the dirty set no longer shrinks: the guest writes about as fast as the link carries, or faster",
                   "all pages that are left are written in every round")


def a_guest_that_writes_faster_than_the_link_goes_over_to_postcopy_by_itself(host):
    move = Move(host, FAST, "--precopy", mem=64 * M, networks=Networks(host, LINK))
    giver, taker = move.completes()
    assert giver["precopy"]["ended_because"] in DOES_NOT_SHRINK, giver["precopy"]
    assert giver["status"] == taker["status"] == "completed" and giver["vm_owner"] == "destination", giver
    assert taker["postcopy_time_ns"] > 0 and taker["pages_received"] == taker["pages_total"], taker
    assert giver["precopy"]["dirty_pages_per_s"] > 0


def without_postcopy_it_does_not_converge_and_runs_on_at_the_source(host):
    move = Move(host, FAST, "--precopy-only", "--downtime-limit", 100, "--timeout", 10, mem=32 * M,
                networks=Networks(host, LINK))
    assert "within 10 s" in move.stays(3)
    with open(move.reports[0], encoding="utf-8") as file:
        report = json.load(file)
    assert report["status"] == "cancelled" and report["vm_owner"] == "source", report
    precopy = report["precopy"]
    assert precopy["rounds"] >= 1 and precopy["ended_because"] is None, precopy
    assert precopy["expected_downtime_ns"] > precopy["downtime_limit_ns"], precopy


def slower_than_the_link(option, limit_ms):
    """A limit that is generous: the pages that are written meanwhile are few, and the link may be slow at times."""
    def case(host):
        move = Move(host, SLOW, option, "--downtime-limit", limit_ms, mem=64 * M, networks=Networks(host, LINK))
        giver, _ = move.completes()
        precopy = giver["precopy"]
        assert precopy["ended_because"] in FITS, precopy
        assert giver["status"] == "completed" and giver["vm_owner"] == "destination", giver
        if precopy["ended_because"] == FITS[0]:
            assert precopy["expected_downtime_ns"] <= precopy["downtime_limit_ns"], precopy
    case.__name__ = f"a_guest_that_writes_slower_than_the_link_fits_into_the_pause_with{option.replace('-', '_')}"
    return case


CASES = [
    a_guest_that_writes_faster_than_the_link_goes_over_to_postcopy_by_itself,
    without_postcopy_it_does_not_converge_and_runs_on_at_the_source,
    slower_than_the_link("--precopy", 2000),
    slower_than_the_link("--precopy-only", 500),
]
