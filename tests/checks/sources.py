#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Checks of the sources themselves. Prints TAP: sources.py SOURCE-ROOT."""
import os
import re
import subprocess
import sys
import tempfile

# Which folder may include which (besides itself); ARCHITECTURE.md has the reasons.
MAY_INCLUDE = {
    "core": set(),
    "hugemem": {"core"},
    "transport-tcp": {"core"},
    "kvm": {"core", "hugemem"},
    "deploy": {"core", "hugemem", "transport-tcp", "kvm"},
    "tests": {"core", "hugemem", "transport-tcp", "kvm", "deploy"},
}
LINES_MAX = 700
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
# Core takes one mutex from the operating system and nothing else.
CORE_HEADERS_FORBIDDEN = {"unistd.h", "time.h", "sys/time.h", "sys/socket.h", "sys/mman.h", "sys/ioctl.h",
                          "sys/eventfd.h", "fcntl.h", "poll.h", "stdio_ext.h", "signal.h", "threads.h"}
SYSTEM_INCLUDE = re.compile(r"^\s*#\s*include\s*<([^>]+)>", re.MULTILINE)
MARKERS = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")


def files(root, *endings):
    for top in sorted(MAY_INCLUDE):
        for folder, folders, names in os.walk(os.path.join(root, top)):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in sorted(names):
                if name.endswith(endings):
                    yield os.path.relpath(os.path.join(folder, name), root)


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as file:
        return file.read()


def folders_include_only_what_the_table_allows(root):
    for path in files(root, ".c", ".h"):
        top = path.split("/")[0]
        for included in INCLUDE.findall(read(root, path)):
            target = included.split("/")[0]
            if "/" in included and target in MAY_INCLUDE and target != top:
                if target not in MAY_INCLUDE[top]:
                    yield f"{path} includes {included}"


def core_uses_no_system_calls_and_no_clock(root):
    for path in files(root, ".c", ".h"):
        if path.startswith("core/"):
            for included in SYSTEM_INCLUDE.findall(read(root, path)):
                if included in CORE_HEADERS_FORBIDDEN:
                    yield f"{path} includes <{included}>"


def core_names_no_transport_and_no_hypervisor(root):
    for path in files(root, ".c"):
        if path.startswith("core/"):
            code = re.sub(r"/\*.*?\*/|//[^\n]*", "", read(root, path), flags=re.DOTALL)
            for word in ("tcp", "rdma", "kvm", "qemu"):
                if re.search(rf"\b{word}\b", code, re.IGNORECASE):
                    yield f"{path} names {word}"


def files_stay_short(root):
    for path in files(root, ".c", ".h", ".py"):
        lines = read(root, path).count("\n")
        if lines > LINES_MAX:
            yield f"{path} has {lines} lines, more than {LINES_MAX}"


def every_file_names_its_license(root):
    for path in files(root, ".c", ".h", ".py", ".sh"):
        head = "".join(read(root, path).splitlines(True)[:2])
        if "SPDX-License-Identifier: Apache-2.0" not in head:
            yield f"{path} has no SPDX line"


def nothing_is_left_for_later(root):
    for path in files(root, ".c", ".h", ".py", ".sh", "meson.build"):
        for number, line in enumerate(read(root, path).splitlines(), 1):
            if MARKERS.search(line):
                yield f"{path}:{number}: {line.strip()}"


def library_code_never_prints(root):
    for path in files(root, ".c"):
        top = path.split("/")[0]
        if top in ("deploy", "tests") or path.startswith("kvm/vmm/"):
            continue
        if re.search(r"\b(printf|puts|putchar|perror|fprintf|vprintf)\s*\(", read(root, path)):
            yield f"{path} prints"


def every_header_compiles_alone(root):
    compiler = os.environ.get("CC", "cc")
    with tempfile.TemporaryDirectory(prefix="hugeferry-checks-") as folder:
        for path in files(root, ".h"):
            unit = os.path.join(folder, "unit.c")
            with open(unit, "w", encoding="utf-8") as file:
                file.write(f'#include "{path}"\n#include "{path}"\n')
            result = subprocess.run([compiler, "-std=gnu17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror",
                                     "-fsyntax-only", "-I", root, unit], capture_output=True, text=True,
                                    check=False)
            if result.returncode:
                yield f"{path}: {result.stderr.splitlines()[0] if result.stderr else 'cannot be compiled'}"


CHECKS = [folders_include_only_what_the_table_allows, core_uses_no_system_calls_and_no_clock,
          core_names_no_transport_and_no_hypervisor, files_stay_short, every_file_names_its_license,
          nothing_is_left_for_later, library_code_never_prints, every_header_compiles_alone]


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
