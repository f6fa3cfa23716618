#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the end-to-end tests: run.py BUILD-DIRECTORY [PART-OF-A-NAME...]. Prints TAP."""
import os
import signal
import sys
import time
import traceback

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "peer")]

import blocks  # noqa: E402
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
import recovery  # noqa: E402
import recovery_by_hand  # noqa: E402
import recovery_commit  # noqa: E402
import recovery_links  # noqa: E402
import recovery_starts  # noqa: E402
import refusals  # noqa: E402
import release  # noqa: E402
import stalls  # noqa: E402
from host import Host, Skip  # noqa: E402


class Stopped(BaseException):
    pass


def stop(*_):
    raise Stopped


def explain(host, error):
    for line in "".join(traceback.format_exception(error)).splitlines():
        print(f"# {line}")
    for process in host.running:
        with open(process.err_path, encoding="utf-8") as file:
            for line in file.read().splitlines()[-20:]:
                print(f"# {os.path.basename(process.args[0])} {process.args[1]}: {line}")


def run_case(host, number, case):
    started = time.monotonic()
    reason = ""
    try:
        case(host)
        result = "ok"
    except Skip as skip:
        result, reason = "ok", f" # SKIP {skip}"
    except Exception as error:  # any failure of a case is a failed case
        result = "not ok"
        explain(host, error)
    finally:
        host.end_processes()
    print(f"{result} {number} - {case.__name__} ({time.monotonic() - started:.1f} s){reason}", flush=True)
    return result == "ok"


def main():
    build, wanted = sys.argv[1], sys.argv[2:]
    modules = (moves, precopy, convergence, recovery, recovery_links, recovery_commit, recovery_by_hand,
               recovery_starts, poison, release, refusals, blocks, preflight, stalls, losses, peers, peer_rounds,
               hostile_sources, hostile_destinations, openings, control, cost, many)
    cases = [case for module in modules for case in module.CASES
             if not wanted or any(part in case.__name__ for part in wanted)]
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    host = Host(os.path.abspath(build))
    print(f"1..{len(cases)}", flush=True)
    try:
        results = [run_case(host, number, case) for number, case in enumerate(cases, 1)]
    finally:
        host.close()
    return 0 if cases and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
