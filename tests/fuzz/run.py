#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs fuzz targets for a while, from their corpora: run.py libfuzzer|afl BUILD-DIRECTORY SECONDS [TARGET...]

BUILD-DIRECTORY was made with -Dfuzzer=true, by clang for libfuzzer and by afl-clang-fast for afl; SECONDS is for each
target, two at a time. Prints TAP. What an input breaks is kept in BUILD-DIRECTORY/found, with how to see it again.
"""
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
CORPORA = os.path.join(HERE, "corpus")
INPUT_MAX_BYTES = 4096
HANG_SECONDS = 20
GRACE_SECONDS = 120  # for what a fuzzer does before and after
ENVIRONMENT = dict(
    os.environ,
    UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1",
    AFL_NO_UI="1", AFL_NO_AFFINITY="1", AFL_SKIP_CPUFREQ="1", AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES="1",
)
ENVIRONMENT.pop("ASAN_OPTIONS", None)  # AFL++ refuses to start with those of the other suites


def dictionary(target):
    words = {"attach": "json", "qmp": "json", "vm": "json", "options": "options"}.get(target.split("_")[0])
    return os.path.join(HERE, "dict", words + ".dict") if words else None


def run(command, log, seconds):
    """The exit code; what it says goes to the log."""
    with open(log, "ab") as out:
        try:
            return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=ENVIRONMENT,
                                  timeout=seconds + GRACE_SECONDS, check=False).returncode
        except subprocess.TimeoutExpired:
            out.write(b"the fuzzer itself did not end\n")
            return -1


def tail(log):
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = [line.rstrip() for line in file if not re.match(r"^#\d+|^\[|^$|^\"", line)]
    wrong = [line for line in lines if re.search(r"broken:|ERROR|runtime error", line)]
    return wrong[:3] + lines[-12:]


def last_number(log, pattern):
    with open(log, encoding="utf-8", errors="replace") as file:
        found = re.findall(pattern, file.read())
    return int(found[-1]) if found else 0


class Job:
    def __init__(self, build, target, seconds, scratch):
        self.target, self.seconds = target, seconds
        self.program = os.path.join(build, "tests/fuzz/fuzz-" + target)
        self.found = os.path.join(build, "found")
        self.corpus = os.path.join(CORPORA, target)
        self.work = os.path.join(scratch, target)
        self.log = os.path.join(scratch, target + ".log")
        os.makedirs(self.found, exist_ok=True)

    def keep(self, path, name):
        kept = os.path.join(self.found, f"{self.target}-{name}")
        shutil.copy(path, kept)
        return kept

    def failed(self, kept):
        lines = tail(self.log) + [f"see it again: {self.program} {path}" for path in kept]
        if kept:
            lines.append(f"once repaired, keep it: cp {kept[0]} {os.path.relpath(self.corpus)}/bug-WHAT-IT-WAS")
        return False, lines


class LibFuzzer(Job):
    def run(self):
        os.makedirs(self.work)
        words = dictionary(self.target)
        command = [self.program, f"-max_len={INPUT_MAX_BYTES}", f"-timeout={HANG_SECONDS}", "-close_fd_mask=1",
                   "-print_final_stats=1", f"-artifact_prefix={self.work}.", f"-max_total_time={self.seconds}"]
        code = run(command + ([f"-dict={words}"] if words else []) + [self.work, self.corpus], self.log, self.seconds)
        prefix = self.target + "."
        made = [name for name in os.listdir(os.path.dirname(self.work)) if name.startswith(prefix) and
                not name.endswith(".log") and not name.startswith(prefix + "slow-unit")]
        kept = [self.keep(os.path.join(os.path.dirname(self.work), name), name[len(prefix):]) for name in made]
        runs = last_number(self.log, r"number_of_executed_units: (\d+)")
        if code != 0 or kept or runs == 0:
            return self.failed(kept)
        return True, [f"{runs} runs, {last_number(self.log, r'cov: ([0-9]+)')} places reached"]


class Afl(Job):
    def run(self):
        words = dictionary(self.target)
        command = ["afl-fuzz", "-i", self.corpus, "-o", self.work, "-V", str(self.seconds), "-m", "none",
                   "-t", f"{HANG_SECONDS}000"] + (["-x", words] if words else []) + ["--", self.program]
        code = run(command, self.log, self.seconds)
        output = os.path.join(self.work, "default")
        kept = [self.keep(os.path.join(output, kind, name), name.replace(":", "-"))
                for kind in ("crashes", "hangs") if os.path.isdir(os.path.join(output, kind))
                for name in sorted(os.listdir(os.path.join(output, kind))) if name.startswith("id")]
        stats = os.path.join(output, "fuzzer_stats")
        runs = last_number(stats, r"execs_done\s*: (\d+)") if os.path.exists(stats) else 0
        if code != 0 or kept or runs == 0:
            return self.failed(kept)
        return True, [f"{runs} runs, {last_number(stats, r'edges_found *: ([0-9]+)')} places reached"]


def main():
    kinds = {"libfuzzer": LibFuzzer, "afl": Afl}
    if len(sys.argv) < 4 or sys.argv[1] not in kinds:
        print(__doc__, file=sys.stderr)
        return 2
    kind, build, seconds = kinds[sys.argv[1]], os.path.abspath(sys.argv[2]), int(sys.argv[3])
    targets = sys.argv[4:] or sorted(os.listdir(CORPORA))
    passed_all = True
    print(f"1..{len(targets)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="hf-fuzz-") as scratch, \
            concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        ENVIRONMENT["TMPDIR"] = scratch
        results = pool.map(lambda target: kind(build, target, seconds, scratch).run(), targets)
        for number, (target, (passed, lines)) in enumerate(zip(targets, results), 1):
            passed_all &= passed
            for line in lines[:-1] if passed else lines:
                print(f"# {line}")
            print(f"{'ok' if passed else 'not ok'} {number} - {sys.argv[1]} {target}" + (f" # {lines[-1]}" if passed else ""),
                  flush=True)
    return 0 if passed_all else 1


if __name__ == "__main__":
    sys.exit(main())
