#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Switches off one rule after the other and shows that a test fails each time. Prints TAP.

    run.py [NAME...]   all rules, or those whose name, group or test is given
    run.py --table     the table of HACKING.md
    run.py --check     the rules fit the sources, HACKING.md holds the table

A rule is an entry of a .toml file beside this one; README.md says what its fields mean. The sources are copied to
a temporary folder and built there once, for each of two that work side by side. Every named test must pass first.
Then, for each rule: its text is replaced, what changed is built, its one test case runs and must fail, the text is
put back. A test that hangs has noticed nothing: it must end by its own limits.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from pathlib import Path

GROUPS = ["placement", "end", "source", "threads", "ownership", "refusals", "schedule", "wire", "link", "cost", "takeover",
          "recovery", "poison", "release", "precopy", "qemu"]
FIELDS = {"name", "rule", "source", "file", "find", "replace", "test", "case"}
# Of the tests: what a test waits for while a rule is off, it waits for in vain.
WAIT_LIMIT_MS = 5000
TREES = 2
BEGIN, END = "<!-- made by tests/mutations/run.py --table -->", "<!-- end of the table -->"


class Broken(Exception):
    """The table or the tree is not what it must be."""


# ---- the rules ----


def load(folder):
    rules = []
    for group in GROUPS:
        path = folder / f"{group}.toml"
        if path.exists():
            with open(path, "rb") as file:
                rules += [{**rule, "group": group} for rule in tomllib.load(file)["rule"]]
    return rules


def edits(rule):
    """What is replaced by what: one text, or a list of several."""
    find, replace = rule["find"], rule["replace"]
    return list(zip(find, replace, strict=True)) if isinstance(find, list) else [(find, replace)]


def faults(root, rules):
    """What is wrong with the entries themselves."""
    seen = set()
    for rule in rules:
        name = rule.get("name", "a rule without a name")
        wrong = FIELDS - rule.keys() | rule.keys() - FIELDS - {"group", "seeds"}
        if wrong:
            yield f"{name}: fields missing or unknown: {', '.join(sorted(wrong))}"
            continue
        if name in seen:
            yield f"{name}: two rules have this name"
        seen.add(name)
        path = root / rule["file"]
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for find, replace in edits(rule):
            if find == replace:
                yield f"{name}: replaces its text by the same"
            if text.count(find) != 1:
                yield f"{name}: its text is found {text.count(find)} times in {rule['file']}, not once"


def table(rules):
    lines = [BEGIN, "", "| rule | noticed by |", "|---|---|"]
    for group in GROUPS:
        members = [rule for rule in rules if rule["group"] == group]
        if members:
            lines.append(f"| **{group}** | |")
        for rule in members:
            lines.append(f"| {rule['rule']} | `{rule['test']}`: {rule['case']} |")
    return "\n".join(lines + ["", END])


def check(root, rules):
    wrong = list(faults(root, rules))
    text = (root / "HACKING.md").read_text(encoding="utf-8")
    if not wrong and table(rules) not in text:
        wrong.append("HACKING.md does not hold the table; replace it by the output of run.py --table")
    for line in wrong:
        print(f"# {line}")
    print(f"{'not ok' if wrong else 'ok'} 1 - the rules fit the sources and HACKING.md")
    print("1..1")
    return 1 if wrong else 0


# ---- a copy of the sources, and its build ----


def copy_sources(root, to):
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root,
                            capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        if name and (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, to / name)
            shutil.copymode(root / name, to / name)


class Tree:
    def __init__(self, root, folder, hangs_after_s):
        self.sources, self.build_folder = folder / "tree", folder / "build"
        self.hangs_after_s = hangs_after_s
        copy_sources(root, self.sources)
        # With the assertions of a developer build, but no -Werror: a rule switched off may leave a function unused.
        # Compiling is most of the work: little is optimized, and nobody debugs.
        self.command("meson", "setup", str(self.build_folder), str(self.sources), "-Ddeveloper=true",
                     "-Dc_args=-Wno-error", "-Dtests=enabled", "-Doptimization=1", "-Ddebug=false")
        targets = {target["id"]: target for target in self.introspect("--targets")}
        self.tests = {test["name"]: test for test in self.introspect("--tests")}
        for test in self.tests.values():
            test["targets"] = [os.path.relpath(targets[id]["filename"][0], self.build_folder) for id in test["depends"]]
        self.only_case = next(target["filename"][0] for target in targets.values() if target["name"] == "only-case")
        self.only_case_target = os.path.relpath(self.only_case, self.build_folder)

    def command(self, *words):
        run = subprocess.run(words, capture_output=True, text=True, check=False)
        if run.returncode:
            raise Broken(f"{' '.join(words)}:\n{run.stdout}{run.stderr}")
        return run.stdout

    def introspect(self, what):
        return json.loads(self.command("meson", "introspect", str(self.build_folder), what))

    def build(self, rules):
        names = sorted({name for rule in rules for name in self.test_of(rule)["targets"]})
        self.command("ninja", "-C", str(self.build_folder), "-j1", self.only_case_target, *names)

    def test_of(self, rule):
        if rule["test"] == "simulate":
            return self.tests["simulate-0"]
        if rule["test"] not in self.tests:
            raise Broken(f"{rule['name']}: there is no test {rule['test']}")
        return self.tests[rule["test"]]

    def run(self, rule):
        """The exit code (None: it hung) and what was printed to stdout and stderr."""
        test = self.test_of(rule)
        words = list(test["cmd"])
        if "seeds" in rule:
            words = [words[0], "--first", str(rule["seeds"][0]), "--seeds", str(rule["seeds"][1])]
        environment = {**os.environ, **test["env"]}
        if has_cases(rule):
            environment |= {"CMOCKA_MESSAGE_OUTPUT": "TAP", "HF_ONLY_CASE": f"*{rule['case']}",
                            "LD_PRELOAD": self.only_case, "HF_TEST_WAIT_LIMIT_MS": str(WAIT_LIMIT_MS)}
        with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              errors="replace", start_new_session=True, cwd=test["workdir"]) as process:
            try:
                out, err = process.communicate(timeout=self.hangs_after_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                out, err = process.communicate()
                return None, out, err
        return process.returncode, out, err


# ---- what a run says ----


def has_cases(rule):
    """The others print a text when they fail, which is the rule's case then."""
    return "seeds" not in rule


def case_line(result, rule, out):
    return re.search(rf"^{result} \d+ - .*{re.escape(rule['case'])}$", out, re.M) is not None


def passed(rule, outcome):
    code, out, _ = outcome
    return code == 0 and (not has_cases(rule) or case_line("ok", rule, out))


def noticed(rule, outcome):
    code, out, err = outcome
    if code is None or code == 0:
        return False
    if not has_cases(rule):
        return rule["case"] in out + err
    return code < 0 or case_line("not ok", rule, out)


def explain(outcome):
    code, out, err = outcome
    yield "it hung" if code is None else f"exit code {code}"
    yield from [line for line in out.splitlines() if line.startswith("not ok")][:5]
    yield from err.splitlines()[-8:]


def switch_off(tree, rule):
    """None, or why the rule does not count as tested."""
    path = tree.sources / rule["file"]
    text = path.read_text(encoding="utf-8")
    changed = text
    for find, replace in edits(rule):
        changed = changed.replace(find, replace)
    path.write_text(changed, encoding="utf-8")
    try:
        tree.build([rule])
        outcome = tree.run(rule)
    except Broken as why:
        return ["the sources do not build without it:", *str(why).splitlines()[-15:]]
    finally:
        path.write_text(text, encoding="utf-8")
    return None if noticed(rule, outcome) else [f"{rule['test']} did not notice", *explain(outcome)]


def side_by_side(trees, jobs, work):
    """work(tree, job) for each job, by the tree that is free first; what it gives, in the order of the jobs."""
    free = queue.SimpleQueue()
    for tree in trees:
        free.put(tree)

    def do(job):
        tree = free.get()
        try:
            return work(tree, job)
        finally:
            free.put(tree)

    with concurrent.futures.ThreadPoolExecutor(len(trees)) as pool:
        return list(pool.map(do, jobs))


def in_turns(trees, rules, group, work):
    """work() for each group of rules. Tests that are not parallel have the host, and its processors, for themselves."""
    parallel = [rule for rule in rules if trees[0].test_of(rule)["is_parallel"]]
    alone = [rule for rule in rules if not trees[0].test_of(rule)["is_parallel"]]
    return [*side_by_side(trees, group(parallel), work), *side_by_side(trees[:1], group(alone), work)]


class Report:
    """The stream of TAP."""

    def __init__(self):
        self.lock, self.told, self.failed = threading.Lock(), 0, 0

    def tell(self, name, why, started):
        with self.lock:
            self.told += 1
            self.failed += bool(why)
            for line in why or []:
                print(f"# {line}")
            print(f"{'not ok' if why else 'ok'} {self.told} - {name} ({time.monotonic() - started:.1f} s)", flush=True)


def by_file(rules):
    """Rules of one file one after the other, by one tree: it is compiled once more for each, not twice."""
    files = collections.defaultdict(list)
    for rule in rules:
        files[rule["file"]].append(rule)
    return sorted(files.values(), key=len, reverse=True)


def needed_before(rules):
    """One rule for each run that has to pass first; seeds pass with more of them, from the same one on."""
    runs, seeds = {}, {}
    for rule in rules:
        if has_cases(rule):
            runs[rule["test"], rule["case"]] = rule
        else:
            first = rule["seeds"][0]
            seeds[first] = max(seeds.get(first, rule), rule, key=lambda each: each["seeds"][1])
    return [*seeds.values(), *runs.values()]


def passes_before(tree, rule):
    outcome = tree.run(rule)
    if passed(rule, outcome):
        return []
    return [f"{rule['test']}, {rule['case']} does not pass before anything is changed", *explain(outcome)]


def make_trees(root, folder, hangs_after_s, rules):
    def make(number, _):
        tree = Tree(root, folder / str(number), hangs_after_s)
        tree.build(rules)
        return tree
    numbers = range(min(TREES, len(by_file(rules))))
    return side_by_side(numbers, numbers, make)


def run_all(root, rules, hangs_after_s):
    print(f"1..{len(rules) + 1}")
    report = Report()
    with tempfile.TemporaryDirectory(prefix="hf-mutations-") as folder:
        started = time.monotonic()
        why = list(faults(root, rules))
        try:
            if not why:
                trees = make_trees(root, Path(folder), hangs_after_s, rules)
                why = sum(in_turns(trees, rules, needed_before, passes_before), [])
        except Broken as broken:
            why = str(broken).splitlines()
        report.tell("every named test passes while all rules are kept", why, started)
        if report.failed:
            return 1

        def switch_all_off(tree, rules_of_file):
            for rule in rules_of_file:
                started = time.monotonic()
                report.tell(f"{rule['name']}: {rule['rule']}", switch_off(tree, rule), started)

        in_turns(trees, rules, by_file, switch_all_off)
    return 1 if report.failed else 0


def main():
    parser = argparse.ArgumentParser(description="switches off one rule after the other")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2])
    parser.add_argument("--rules", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--hangs-after", type=float, default=60, metavar="SECONDS")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()

    rules = load(options.rules)
    if options.table:
        print(table(rules))
        return 0
    if options.check:
        return check(options.root, rules)
    if options.names:
        rules = [rule for rule in rules if {rule["name"], rule["group"], rule["test"]} & set(options.names)]
    if not rules:
        print("no rule has this name", file=sys.stderr)
        return 2
    return run_all(options.root, rules, options.hangs_after)


if __name__ == "__main__":
    sys.exit(main())
