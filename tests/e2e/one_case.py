# SPDX-License-Identifier: Apache-2.0
"""Runs one case, tells its result as a line of TAP, and gives back what it took."""
import os
import time
import traceback

from host import Skip


def explain(host, error):
    for line in "".join(traceback.format_exception(error)).splitlines():
        print(f"# {line}")
    for process in host.running:
        with open(process.err_path, encoding="utf-8") as file:
            for line in file.read().splitlines()[-20:]:
                print(f"# {os.path.basename(process.args[0])} {''.join(process.args[1:2])}: {line}")


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
    took_s = time.monotonic() - started
    print(f"{result} {number} - {case.__name__} ({took_s:.1f} s){reason}", flush=True)
    return result == "ok", took_s
