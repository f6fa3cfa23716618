#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every header of the libraries compiles alone, and twice.

    headers-alone.py ROOT COMPILER...

A header that leans on what its user happened to include before breaks the next user.
"""

import subprocess
import sys
from pathlib import Path

FOLDERS = ("core", "hugemem", "transport-*", "kvm")
FLAGS = ["-std=gnu17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wstrict-prototypes", "-Werror", "-fsyntax-only",
         "-x", "c", "-"]


def headers(root):
    return sorted(path.relative_to(root) for folder in FOLDERS for path in root.glob(f"{folder}/**/*.h"))


def compiles(root, compiler, header):
    text = f'#include "{header}"\n#include "{header}"\nint alone;\n'
    run = subprocess.run([*compiler, "-I", str(root), *FLAGS], input=text, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        print(f"{header} does not compile alone:\n{run.stderr}")
    return run.returncode == 0


def main():
    if len(sys.argv) < 3:
        sys.exit("usage: headers-alone.py ROOT COMPILER...")
    root, compiler = Path(sys.argv[1]).resolve(), sys.argv[2:]
    found = headers(root)
    bad = [header for header in found if not compiles(root, compiler, header)]
    print(f"{len(found)} headers, {len(bad)} do not compile alone")
    sys.exit(1 if bad or not found else 0)


main()
