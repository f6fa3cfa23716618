#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Checks of the sources themselves. Prints TAP: sources.py SOURCE-ROOT."""
import os
import re
import sys

FOLDERS = ["core", "deploy", "hugemem", "kvm", "perf", "tests", "transport-rdma", "transport-tcp"]
LINES_MAX = 800
# Beside those in deploy/ and kvm/vmm/. The preloaded object is alone in somebody else's process: stderr is all there is.
PROGRAMS = {"perf/hugeferry_perf.c", "perf/bench_engine.c", "perf/inside.c", "perf/raw_limits.c",
            "hugemem/attach_preload.c"}
MARKERS = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")


def files(root, *endings):
    for top in FOLDERS:
        for folder, folders, names in os.walk(os.path.join(root, top)):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in sorted(names):
                if name.endswith(endings):
                    yield os.path.relpath(os.path.join(folder, name), root)


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as file:
        return file.read()


def files_stay_short(root):
    for path in files(root, ".c", ".cc", ".h", ".py"):
        lines = read(root, path).count("\n")
        if lines > LINES_MAX:
            yield f"{path} has {lines} lines, more than {LINES_MAX}"


def every_file_names_its_license(root):
    for path in files(root, ".c", ".cc", ".h", ".py", ".sh"):
        head = "".join(read(root, path).splitlines(True)[:2])
        if "SPDX-License-Identifier: Apache-2.0" not in head:
            yield f"{path} has no SPDX line"


def nothing_is_left_for_later(root):
    for path in files(root, ".c", ".cc", ".h", ".py", ".sh", "meson.build"):
        for number, line in enumerate(read(root, path).splitlines(), 1):
            if MARKERS.search(line):
                yield f"{path}:{number}: {line.strip()}"


def library_code_never_prints(root):
    for path in files(root, ".c"):
        top = path.split("/")[0]
        # The preloaded object is alone in somebody else's process: stderr is all there is.
        if top in ("deploy", "tests") or path.startswith("kvm/vmm/") or path in PROGRAMS:
            continue
        if re.search(r"\b(printf|puts|putchar|perror|fprintf|vprintf)\s*\(", read(root, path)):
            yield f"{path} prints"


CHECKS = [files_stay_short, every_file_names_its_license, nothing_is_left_for_later, library_code_never_prints]


def main():
    root = os.path.abspath(sys.argv[1])
    failed = 0
    print(f"1..{len(CHECKS)}")
    for number, check in enumerate(CHECKS, 1):
        found = list(check(root))
        failed += bool(found)
        for line in found:
            print(f"# {line}")
        print(f"{'not ok' if found else 'ok'} {number} - {check.__name__}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
