#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""headers-alone.py finds headers that lean on others, and nothing else.

    headers-alone-catches.py CHECKER COMPILER...
"""

import subprocess
import sys
import tempfile
from pathlib import Path

GUARDED = "#ifndef A_H\n#define A_H\n{}\n#endif\n"

# Name of the case, file, text, expected exit code.
CASES = [
    ("a sound header", "core/a.h", GUARDED.format("#include <stdint.h>\nstruct a { uint32_t x; };"), 0),
    ("a header that misses an include", "core/a.h", GUARDED.format("struct a { uint32_t x; };"), 1),
    ("a header without a guard", "kvm/a.h", "struct a { int x; };\n", 1),
    ("a header that warns", "hugemem/a.h", GUARDED.format("int f();"), 1),
    ("a header of a later transport", "transport-later/a.h", GUARDED.format("size_t f(void);"), 1),
    ("a header in a folder below", "kvm/guest/a.h", GUARDED.format("size_t f(void);"), 1),
    ("no header at all", "docs/a.txt", "", 1),
]


def main():
    checker, compiler = sys.argv[1], sys.argv[2:]
    failures = 0
    for case, name, text, expected in CASES:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / name
            path.parent.mkdir(parents=True)
            path.write_text(text, encoding="utf-8")
            run = subprocess.run([sys.executable, checker, directory, *compiler], capture_output=True, text=True,
                                 check=False)
        if run.returncode != expected:
            print(f"{case}: wanted exit code {expected}, got {run.returncode}:\n{run.stdout}{run.stderr}")
            failures += 1
    print(f"{len(CASES)} cases, {failures} failed")
    sys.exit(1 if failures else 0)


main()
