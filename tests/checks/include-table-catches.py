#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""include-table.py finds every kind of violation, and nothing else.

    include-table-catches.py CHECKER
"""

import subprocess
import sys
import tempfile
from pathlib import Path

CLEAN = {
    "core/a.h": "#include <stdint.h>\n",
    "core/a.c": '#include "core/a.h"\n#include <pthread.h>\n#include <stdio.h>\n'
                "// as QEMU does over TCP\n/* KVM, RDMA:\n * printf() */\n"
                'int f(void) { return snprintf(0, 0, "// x"); }\n',
    "core/lock.h": "#include <pthread.h>\nstruct l { pthread_mutex_t m; pthread_cond_t c; };\n",
    "core/lock.c": '#include "core/lock.h"\nvoid f(struct l *l) { pthread_mutex_lock(&l->m); }\n',
    "core/v.h": "int v(const char *f, ...) __attribute__((format(printf, 1, 2)));\n/* rename it */ int fclose_it;\n",
    "core/a_internal.h": '#include "core/a.h"\n',
    "hugemem/b.h": '#include "core/a.h"\n',
    "hugemem/b.c": '#include "hugemem/b.h"\n#include <sys/mman.h>\nint printf(const char *, ...);\n',
    "transport-tcp/t.c": '#include "core/a.h"\n#include <sys/socket.h>\n',
    "transport-tcp/t.h": '#include "core/a.h"\n',
    "kvm/k.h": '#include "core/a.h"\n#include "hugemem/b.h"\n',
    "kvm/k.c": '#include "kvm/k.h"\n#include "made_by_the_build.h"\n',
    "deploy/d.h": "",
    "deploy/d.c": '#include "core/a.h"\n#include "kvm/k.h"\n#include "transport-tcp/t.h"\n#include "deploy/d.h"\n',
    "tests/t.h": "",
    "tests/t.c": '#include "core/a_internal.h"\n#include "kvm/k.h"\n#include "t.h"\n',
    "perf/p.c": '#include "transport-tcp/t.h"\n',
}

# File, its text, what the complaint must say.
BROKEN = [
    ("core/x.c", '#include "hugemem/b.h"\n', 'core/ may not include "hugemem/b.h"'),
    ("core/x.c", '#include "transport-tcp/t.h"\n', 'core/ may not include "transport-tcp/t.h"'),
    ("core/x.c", '  #  include   "kvm/k.h"\n', 'core/x.c:1: core/ may not include "kvm/k.h"'),
    ("core/sub/x.h", '#include "deploy/d.h"\n', 'core/ may not include "deploy/d.h"'),
    ("hugemem/x.c", '#include "kvm/k.h"\n', 'hugemem/ may not include "kvm/k.h"'),
    ("hugemem/x.c", '#include "transport-tcp/t.h"\n', "hugemem/ may not include"),
    ("transport-tcp/x.c", '#include "hugemem/b.h"\n', "transport-tcp/ may not include"),
    ("transport-rdma/x.c", '#include "transport-tcp/t.h"\n', "transport-rdma/ may not include"),
    ("kvm/x.c", '#include "transport-tcp/t.h"\n', "kvm/ may not include"),
    ("kvm/x.c", '#include "deploy/d.h"\n', "kvm/ may not include"),
    ("deploy/x.c", '#include "tests/t.c"\n', "deploy/ may not include"),
    ("core/x.c", '#include "a.h"\n', "written from the root"),
    ("core/x.c", '#include "core/../kvm/k.h"\n', "written from the root"),
    ("core/x.c", '#include "core/nothing.h"\n', "does not exist"),
    ("core/x.c", "#include <core/a.h>\n", "take quotes"),
    ("core/x.c", "#define H <time.h>\n#include H\n", "core/x.c:2: computed include"),
    ("deploy/x.c", '#include "core/a_internal.h"\n', "is private to core/"),
    ("kvm/x.c", '#include "core/a_internal.h"\n', "is private to core/"),
    ("core/x.c", "#include <time.h>\n", "core/ may not include <time.h>"),
    ("core/x.c", "#include <unistd.h>\n", "core/ may not include <unistd.h>"),
    ("core/x.h", "#include <sys/ioctl.h>\n", "core/ may not include <sys/ioctl.h>"),
    ("core/x.c", "#include <threads.h>\n", "core/ may not include <threads.h>"),
    ("core/x.c", "/* a\n b */ pthread_t thread;\n", "core/x.c:2: 'pthread_t'"),
    ("core/x.c", "int x = pthread_create(0, 0, 0, 0);\n", "'pthread_create'"),
    ("core/x.c", "pthread_cond_t cond;\n", "'pthread_cond_t'"),
    ("core/x.c", "pthread_mutex_t mutex;\n", "'pthread_mutex_t': locks are those of core/lock.h"),
    ("hugemem/x.c", "void f(void *m) { pthread_mutex_lock(m); }\n", "'pthread_mutex_lock': locks are those"),
    ("kvm/sub/x.h", "struct s { pthread_rwlock_t lock; };\n", "'pthread_rwlock_t': locks are those"),
    ("deploy/x.c", "pthread_cond_t cond = PTHREAD_COND_INITIALIZER;\n", "'pthread_cond_t': locks are those"),
    ("core/x.c", 'void f(void) { printf("x"); }\n', "'printf'"),
    ("core/x.c", 'void f(void) { fprintf(stderr, "x"); }\n', "'stderr'"),
    ("core/x.c", "FILE *file;\n", "'FILE'"),
    ("core/x.c", 'char *home = getenv ("HOME");\n', "asks the process"),
    ("core/x.c", 'void f(void) { __asm__("syscall"); }\n', "no system call"),
    ("core/x.c", 'const char *name = "tcp";\n', "'tcp'"),
    ("core/x.c", "int hf_Kvm_thing;\n", "'Kvm'"),
    ("core/x.c", "#define USE_RDMA 1\n", "'RDMA'"),
    ("core/x.c", 'const char *url = "http://x"; int qemu;\n', "'qemu'"),
]


def write(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def check(checker, extra):
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for name, text in {**CLEAN, **extra}.items():
            write(root, name, text)
        run = subprocess.run([sys.executable, checker, directory], capture_output=True, text=True, check=False)
    return run.returncode, run.stdout + run.stderr


def main():
    checker = sys.argv[1]
    failures = 0

    code, output = check(checker, {})
    if code != 0 or output:
        print(f"a clean tree is refused:\n{output}")
        failures += 1
    for name, text, words in BROKEN:
        code, output = check(checker, {name: text})
        if code != 1 or words not in output or not output.startswith(name + ":"):
            print(f"not caught: {name}: {text!r}: wanted '{words}', got {code}:\n{output}")
            failures += 1
    with tempfile.TemporaryDirectory() as empty:
        if subprocess.run([sys.executable, checker, empty], capture_output=True, check=False).returncode != 1:
            print("a tree without any file passes")
            failures += 1

    print(f"{len(BROKEN) + 2} cases, {failures} failed")
    sys.exit(1 if failures else 0)


main()
