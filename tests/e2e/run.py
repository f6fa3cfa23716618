#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the end-to-end tests: run.py BUILD-DIRECTORY [PART-OF-A-NAME...]. Prints TAP."""
import os
import signal
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "peer")]

import beforehand  # noqa: E402
import blocks  # noqa: E402
import blocktimes  # noqa: E402
import control  # noqa: E402
import convergence  # noqa: E402
import cost  # noqa: E402
import hostile_destinations  # noqa: E402
import hostile_sources  # noqa: E402
import losses  # noqa: E402
import many  # noqa: E402
import moves  # noqa: E402
import openings  # noqa: E402
import peer_rounds  # noqa: E402
import peers  # noqa: E402
import poison  # noqa: E402
import precopy  # noqa: E402
import preflight  # noqa: E402
import qemu  # noqa: E402
import qemu_balloon  # noqa: E402
import qemu_bitmaps  # noqa: E402
import qemu_devices  # noqa: E402
import qemu_disk  # noqa: E402
import qemu_failures  # noqa: E402
import qemu_first  # noqa: E402
import qemu_flat_moves  # noqa: E402
import qemu_frozen  # noqa: E402
import qemu_library  # noqa: E402
import qemu_libvirt  # noqa: E402
import qemu_memory  # noqa: E402
import qemu_network  # noqa: E402
import qemu_recovery  # noqa: E402
import qemu_settings  # noqa: E402
import qemu_versions  # noqa: E402
import recovery  # noqa: E402
import recovery_by_hand  # noqa: E402
import recovery_commit  # noqa: E402
import recovery_links  # noqa: E402
import recovery_starts  # noqa: E402
import refusals  # noqa: E402
import release  # noqa: E402
import stalls  # noqa: E402
from host import Host  # noqa: E402
from one_case import run_case  # noqa: E402


class Stopped(BaseException):
    pass


MODULES = (
    moves,
    precopy,
    convergence,
    recovery,
    recovery_links,
    recovery_commit,
    recovery_by_hand,
    recovery_starts,
    poison,
    release,
    refusals,
    blocks,
    preflight,
    stalls,
    losses,
    peers,
    peer_rounds,
    hostile_sources,
    hostile_destinations,
    openings,
    control,
    beforehand,
    cost,
    blocktimes,
    many,
    qemu,
    qemu_devices,
    qemu_recovery,
    qemu_settings,
    qemu_versions,
    qemu_flat_moves,
    qemu_failures,
    qemu_first,
    qemu_frozen,
    qemu_library,
    qemu_memory,
    qemu_network,
    qemu_balloon,
    qemu_bitmaps,
    qemu_disk,
    qemu_libvirt,
)


SLOWEST = 10


def stop(*_):
    raise Stopped


def main():
    build, wanted = sys.argv[1], sys.argv[2:]
    cases = [case for module in MODULES for case in module.CASES
             if not wanted or any(part in case.__name__ for part in wanted)]
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    host = Host(os.path.abspath(build))
    print(f"1..{len(cases)}", flush=True)
    try:
        results = [run_case(host, number, case) for number, case in enumerate(cases, 1)]
    finally:
        host.close()
    print("# the slowest:", flush=True)
    for (_, took_s), case in sorted(zip(results, cases), key=lambda each: each[0][1], reverse=True)[:SLOWEST]:
        print(f"# {took_s:6.1f} s  {case.__module__}: {case.__name__}", flush=True)
    return 0 if cases and all(passed for passed, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main())
