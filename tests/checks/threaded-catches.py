#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""threaded.py leaves out no program that could run two ways: threaded-catches.py FOLDER-OF-THREADED COMPILER..."""
import os
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
from threaded import is_threaded  # noqa: E402

START = "#include <pthread.h>\nint start(void);\nint start(void) { pthread_t t; return pthread_create(&t, 0, 0, 0); }\n"
CATCH = "#include <signal.h>\nint start(void);\nint start(void) { return signal(SIGTERM, SIG_IGN) == SIG_ERR; }\n"
LOCK = "#include <pthread.h>\nint start(void);\nint start(void) { pthread_mutex_t m; return pthread_mutex_init(&m, 0); }\n"
CALLS = "int start(void);\nint main(void) { return start(); }\n"
CALLS_NOT = "int main(void) { return 0; }\n"
# What the case shows, the library, the program, is it threaded?
CASES = [
    ("a thread is started by what the program takes from a library", START, CALLS, True),
    ("a signal is caught", CATCH, CALLS, True),
    ("what the library could do and the program does not take counts for nothing", START, CALLS_NOT, False),
    ("a lock alone starts nothing", LOCK, CALLS, False),
]


def build(compiler, folder, library, program):
    paths = {name: os.path.join(folder, name) for name in ("library.c", "library.o", "library.a", "program.c", "program")}
    for name, text in (("library.c", library), ("program.c", program)):
        with open(paths[name], "w", encoding="utf-8") as file:
            file.write(text)
    subprocess.run([*compiler, "-c", paths["library.c"], "-o", paths["library.o"]], check=True)
    subprocess.run(["ar", "rc", paths["library.a"], paths["library.o"]], check=True)
    subprocess.run([*compiler, paths["program.c"], paths["library.a"], "-pthread", "-o", paths["program"]], check=True)
    return paths["program"]


def main():
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for name, library, program, expected in CASES:
            wrong += [name] if is_threaded([build(sys.argv[2:], folder, library, program)]) != expected else []
        sound = build(sys.argv[2:], folder, LOCK, CALLS)
        wrong += [] if is_threaded([sound, __file__]) else ["a script may start anything"]
        wrong += [] if is_threaded([sound, build(sys.argv[2:], tempfile.mkdtemp(dir=folder), START, CALLS)]) else \
            ["a second program of the test starts a thread"]
    for name in wrong:
        print(f"judged wrongly: {name}")
    sys.exit(bool(wrong))


main()
