#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""No library has a variable that two migrations in one process would share: no-globals.py LIBRARY...

Constants are allowed, also those the loader has to relocate (.data.rel.ro), and in developer builds what
core/lock.c knows of each thread: the locks it holds belong to the thread, whichever migration it works for. So
does where hugemem/guarded.c jumps back to: a signal is the thread's.
"""
import subprocess
import sys


ALLOWED = {("lock.c.o", ".tbss"), ("guarded.c.o", ".tbss")}


def is_writable(section):
    return section.startswith((".data", ".bss", ".tdata", ".tbss")) and not section.startswith(".data.rel.ro")


def variables(path):
    """(object, section, bytes) of everything writable. `size -A` names the object, then its sections."""
    listing = subprocess.run(["size", "-A", path], check=True, capture_output=True, text=True).stdout
    current = path
    for line in listing.splitlines():
        words = line.split()
        if line.rstrip().endswith(":") or "(ex " in line:
            current = words[0]
        elif len(words) == 3 and is_writable(words[0]) and int(words[1]):
            yield current, words[0], int(words[1])


def main():
    found = [
        (name, section, size)
        for path in sys.argv[1:]
        for name, section, size in variables(path)
        if (name.split("/")[-1], section) not in ALLOWED
    ]
    for name, section, size in found:
        print(f"{name}: {size} bytes in {section}: two migrations in one process would share them")
    sys.exit(1 if found or len(sys.argv) < 2 else 0)


main()
