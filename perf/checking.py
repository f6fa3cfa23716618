# SPDX-License-Identifier: Apache-2.0
"""Runs the cases of a check of a suite, and tells their results as TAP."""
import os
import subprocess

import figures


class Skipped(Exception):
    """The host lacks what the case needs; the text says what."""


def need_kvm():
    if not os.path.exists("/dev/kvm"):
        raise Skipped("/dev/kvm is missing")


def run_cases(cases):
    """The exit code."""
    failed = 0
    print(f"1..{len(cases)}")
    for number, case in enumerate(cases, 1):
        try:
            case()
            print(f"ok {number} - {case.__name__}", flush=True)
        except Skipped as lack:
            print(f"ok {number} - {case.__name__} # SKIP {lack}", flush=True)
        except (AssertionError, OSError, ValueError, figures.Failed, subprocess.SubprocessError) as error:
            failed += 1
            print(f"# {error}\nnot ok {number} - {case.__name__}", flush=True)
    return 1 if failed else 0


def has_figures(found, expected, of_any_sign=()):
    """{benchmark: counters}: these benchmarks, with these counters, and all of them above zero but for some."""
    assert found.keys() == expected.keys(), sorted(found)
    for name, counters in expected.items():
        assert found[name].keys() == counters, (name, sorted(found[name]))
        assert all(value > 0 for key, value in found[name].items() if key not in of_any_sign), (name, found[name])
