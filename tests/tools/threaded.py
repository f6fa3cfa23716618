#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Names the tests of a suite that have something for ThreadSanitizer to see: threaded.py BUILD-DIRECTORY SUITE

A program that neither starts a thread nor catches a signal runs one way only. It is left out if neither it nor any other
program that its test needs so much as names a function that would; what is no program (a script) is never left out.
How many are left out is said on stderr.
"""
import json
import re
import subprocess
import sys

STARTS = {"pthread_create", "thrd_create", "timer_create", "clone", "sigaction", "signal"}


def symbols(path):
    """What it has and what it needs of others; None: it is no program."""
    done = subprocess.run(["nm", path], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    # Of libraries a name may have a version behind it, of wrapped functions a prefix before it.
    return {word.split("@")[0].removeprefix("__real_") for word in re.findall(r" [A-Za-z] (\S+)$", done.stdout, re.M)}


def is_threaded(paths):
    found = [symbols(path) for path in paths]
    return any(names is None or not names or names & STARTS for names in found)


def introspect(build, what):
    done = subprocess.run(["meson", "introspect", build, what], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main():
    build, suite = sys.argv[1:]
    files = {target["id"]: target["filename"] for target in introspect(build, "--targets")}
    tests = [test for test in introspect(build, "--tests") if any(s.split(":")[-1] == suite for s in test["suite"])]
    threaded = [test["name"] for test in tests
                if is_threaded({test["cmd"][0], *(path for target in test["depends"] for path in files[target])})]
    print(f"{suite}: {len(tests) - len(threaded)} of {len(tests)} tests start no thread", file=sys.stderr)
    for name in threaded:
        print(name)


if __name__ == "__main__":
    main()
