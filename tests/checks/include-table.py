#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Who may include whom, and what the core may not touch.

    include-table.py ROOT

Prints one line for each violation and exits 1 if there is any. The table is that of ARCHITECTURE.md:
core includes core; hugemem and the transports add core; kvm adds core and hugemem; programs, tests and
benchmarks may include everything that is public. Locks are those of core/lock.h everywhere. The core is passive: no threads, system calls, I/O or
clocks, and its code names no transport, no hypervisor and no VMM (comments may cite sources).
"""

import re
import sys
from pathlib import Path

MAY_INCLUDE = {
    "core": {"core"},
    "hugemem": {"core", "hugemem"},
    "transport-tcp": {"core", "transport-tcp"},
    "transport-rdma": {"core", "transport-rdma"},
    "kvm": {"core", "hugemem", "kvm"},
}
LIBRARIES = set(MAY_INCLUDE)
MAY_INCLUDE["perf"] = LIBRARIES | {"perf", "deploy", "tests"}
MAY_INCLUDE["tests"] = LIBRARIES | {"perf", "deploy", "tests"}
MAY_INCLUDE["deploy"] = LIBRARIES | {"deploy"}

# Read from outside their own folder by tests only.
PRIVATE_HEADER = re.compile(r"(^|[-_/])internal\.h$")

CORE_SYSTEM_HEADERS = {
    "assert.h", "errno.h", "inttypes.h", "limits.h", "pthread.h", "stdalign.h", "stdarg.h", "stdatomic.h",
    "stdbool.h", "stddef.h", "stdint.h", "stdio.h", "stdlib.h", "string.h", "sys/types.h",
}
# All that the libraries may use of mutexes and conditions: there names and ranks are given and rules asserted.
LOCK_FILES = {"core/lock.h", "core/lock.c"}
LOCKS = re.compile(r"\bpthread_(?:mutex|cond|rwlock|spin)\w*")
# pthread.h, stdio.h and stdlib.h offer more than the core may use.
CORE_FORBIDDEN = [
    (re.compile(r"\bpthread_(?!mutex|cond)\w+"), "the core takes a lock from core/lock.h and nothing else"),
    (re.compile(r"\b(?:FILE|stdin|stdout|stderr)\b|\b(?:printf|fprintf|dprintf|vprintf|vfprintf|vdprintf|sprintf"
                r"|vsprintf|asprintf|vasprintf|puts|fputs|putc|fputc|putchar|getc|fgetc|getchar|gets|fgets|ungetc"
                r"|getline|getdelim|perror|fopen|fdopen|freopen|fclose|fread|fwrite|fseek|ftell|rewind|fflush|feof"
                r"|ferror|clearerr|fileno|setbuf|setvbuf|tmpfile|tmpnam|popen|pclose|remove|rename|open_memstream"
                r"|fmemopen|scanf|fscanf|sscanf|vscanf|vfscanf|vsscanf)\s*\("),
     "the core uses snprintf and vsnprintf from stdio.h and nothing else"),
    (re.compile(r"\b(?:getenv|secure_getenv|setenv|putenv|system|exit|_Exit|quick_exit|atexit|mkstemp|mkdtemp"
                r"|random|srandom|rand|srand)\s*\("),
     "the core asks the process and the system for nothing"),
    (re.compile(r"\b(?:asm|__asm__|syscall)\b"), "the core makes no system call"),
    (re.compile(r"tcp|rdma|kvm|qemu", re.IGNORECASE), "the core's code names no transport, hypervisor or VMM"),
]

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"([^"\n]+)"|<([^>\n]+)>|(\S+))', re.MULTILINE)
TOKEN = re.compile(r'//(?:\\\n|[^\n])*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)


def without_comments(text):
    """Comments become blanks; line numbers stay, strings stay (they are code)."""

    def blank(match):
        token = match.group(0)
        return re.sub(r"[^\n]", " ", token) if token.startswith("/") else token

    return TOKEN.sub(blank, text)


class Checker:
    def __init__(self, root):
        self.root = root
        self.files = 0
        self.violations = []

    def complain(self, path, text, position, why):
        line = text.count("\n", 0, position) + 1
        self.violations.append(f"{path.relative_to(self.root)}:{line}: {why}")

    @staticmethod
    def is_local(path, folder, name):
        """Tests may name a neighbour plainly. What is not in the tree is made by the build."""
        return folder == "tests" or not (path.parent / name).exists()

    def check_own_include(self, path, folder, text, position, name):
        target = name.split("/")[0]
        if "/" not in name and self.is_local(path, folder, name):
            return
        if "/" not in name or ".." in name.split("/"):
            self.complain(path, text, position, f'"{name}": includes are written from the root')
        elif target not in MAY_INCLUDE[folder]:
            self.complain(path, text, position, f'{folder}/ may not include "{name}"')
        elif not (self.root / name).is_file():
            self.complain(path, text, position, f'"{name}" does not exist')
        elif PRIVATE_HEADER.search(name) and target != folder and folder != "tests":
            self.complain(path, text, position, f'"{name}" is private to {target}/')

    def check_includes(self, path, folder, text):
        for match in INCLUDE.finditer(text):
            own, system, computed = match.groups()
            if computed:
                self.complain(path, text, match.start(), f"computed include {computed}: the table cannot be checked")
            elif own:
                self.check_own_include(path, folder, text, match.start(), own)
            elif system.split("/")[0] in MAY_INCLUDE:
                self.complain(path, text, match.start(), f"<{system}>: the project's own headers take quotes")
            elif folder == "core" and system not in CORE_SYSTEM_HEADERS:
                self.complain(path, text, match.start(), f"core/ may not include <{system}>")

    def check_core_code(self, path, text):
        for pattern, why in CORE_FORBIDDEN:
            for match in pattern.finditer(text):
                self.complain(path, text, match.start(), f"'{match.group(0).rstrip('( ')}': {why}")

    def check_file(self, path, folder):
        self.files += 1
        text = without_comments(path.read_text(encoding="utf-8"))
        self.check_includes(path, folder, text)
        if folder in LIBRARIES | {"deploy"} and path.relative_to(self.root).as_posix() not in LOCK_FILES:
            for match in LOCKS.finditer(text):
                self.complain(path, text, match.start(), f"'{match.group(0)}': locks are those of core/lock.h")
        if folder == "core":
            self.check_core_code(path, text)

    def run(self):
        for folder in sorted(MAY_INCLUDE):
            for path in sorted((self.root / folder).rglob("*")):
                if path.suffix in (".c", ".h", ".cc", ".cpp", ".hpp", ".S") and path.is_file():
                    self.check_file(path, folder)


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: include-table.py ROOT")
    checker = Checker(Path(sys.argv[1]).resolve())
    checker.run()
    for violation in checker.violations:
        print(violation)
    if not checker.files:
        print("no file was found; is this the root of the project?")
    sys.exit(1 if checker.violations or not checker.files else 0)


main()
