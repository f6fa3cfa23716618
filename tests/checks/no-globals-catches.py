#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""no-globals.py notices what it is for: no-globals-catches.py CHECKER COMPILER..."""
import os
import subprocess
import sys
import tempfile

SHARED = {
    "a counter": "static int calls; int f(void); int f(void) { return ++calls; }",
    "a value": "static int left = 3; int f(void); int f(void) { return --left; }",
    "a pointer": 'static const char *name = "x"; const char *f(void); const char *f(void) { return name++; }',
    "a thread's": "static __thread int depth; int f(void); int f(void) { return ++depth; }",
}
ALLOWED = {
    "constants": 'static const char *const names[] = {"a", "b"}; const char *f(int i); '
                 "const char *f(int i) { return names[i]; }",
    "none": "int f(int i); int f(int i) { return i + 1; }",
}


def code_of(checker, compiler, folder, source):
    path = os.path.join(folder, "x.c")
    with open(path, "w", encoding="utf-8") as file:
        file.write(source)
    subprocess.run([*compiler, "-fPIC", "-c", path, "-o", path + ".o"], check=True)
    subprocess.run(["ar", "rc", path + ".a", path + ".o"], check=True)
    return subprocess.run([sys.executable, checker, path + ".a"], stdout=subprocess.DEVNULL, check=False).returncode


def main():
    checker, compiler = sys.argv[1], sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        wrong = [name for name, source in SHARED.items() if not code_of(checker, compiler, folder, source)]
        wrong += [name for name, source in ALLOWED.items() if code_of(checker, compiler, folder, source)]
    for name in wrong:
        print(f"judged wrongly: {name}")
    sys.exit(bool(wrong))


main()
