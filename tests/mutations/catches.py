#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""run.py calls a rule tested only if its own case fails, by itself, without it. Prints TAP: catches.py RUN."""
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = {
    "meson.build": """project('small', 'c')
cmocka = dependency('cmocka')
shared_module('only-case', 'only_case.c', name_prefix: '', dependencies: cmocka, build_by_default: false)
test('small', executable('small', 'small.c', 'small_test.c', dependencies: cmocka))
test('still', executable('still', 'still.c', dependencies: cmocka), suite: 'unit')
""",
    "meson_options.txt": "option('tests', type: 'feature')\noption('developer', type: 'boolean')\n",
    "small.c": "int twice(int n);\nint twice(int n)\n{\n\treturn n + n;\n}\n",
    "small_test.c": """#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
int twice(int n);
static void zero(void **s) { (void)s; assert_int_equal(twice(0), 0); }
static void five(void **s) { (void)s; assert_int_equal(twice(5), 10); }
int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(zero), cmocka_unit_test(five)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
""",
    "still.c": "int main(void)\n{\n\treturn 0;\n}\n",
}
RULE = {"name": "n", "rule": "twice is twice", "source": "s", "file": "small.c", "find": "n + n", "replace": "n * n",
        "test": "small", "case": "five"}
# In one run: what differs from RULE, and whether that is a rule tested, or what is said to be wrong with it.
JUDGED = [
    ("a rule whose case fails is tested", {}, None),
    ("a case that still passes has noticed nothing", {"case": "zero"}, "small did not notice"),
    ("a case that crashes has noticed", {"replace": "*(volatile int *)0"}, None),
    ("a case that hangs has noticed nothing", {"replace": "({ for (;;) ; n; })"}, "it hung"),
    ("a change that does not build is an error", {"replace": "nonsense"}, "do not build without it"),
]
# Each by itself: nothing is switched off when there is something wrong before.
REFUSED = [
    ("a text that is not there is an error", {"find": "n - n"}, "found 0 times"),
    ("a text that is there twice is an error", {"find": "n"}, "not once"),
    ("a change that changes nothing is an error", {"replace": "n + n"}, "by the same"),
    ("a field too many is an error", {"why": "x"}, "fields missing or unknown: why"),
    ("a test that does not exist is an error", {"test": "none"}, "there is no test none"),
    ("a case that does not exist is an error", {"case": "six"}, "does not pass before anything is changed"),
    ("a test without the case is an error", {"test": "still"}, "does not pass before anything is changed"),
]


def run(runner, folder, rules):
    with open(folder / "wire.toml", "w", encoding="utf-8") as file:
        for changes in rules:
            file.write("[[rule]]\n")
            for key, value in {**RULE, **changes}.items():
                file.write(f"{key} = '''{value}'''\n")
    words = [sys.executable, runner, "--root", str(folder), "--rules", str(folder), "--hangs-after", "3"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def verdicts(output):
    """(ok or not ok, the comments before it) of every TAP line."""
    comments = []
    for line in output.splitlines():
        match = re.match(r"(ok|not ok) \d+ - ", line)
        if match:
            yield match.group(1), "\n".join(comments)
            comments = []
        else:
            comments.append(line)


def judged(runner, folder):
    rules = [{**changes, "name": f"n{number}"} for number, (_, changes, _) in enumerate(JUDGED)]
    code, output = run(runner, folder, rules)
    found = list(verdicts(output))[1:]  # without that of the unchanged sources
    yield "the exit code says that a rule is not tested", code == 1 and len(found) == len(JUDGED), output
    for (name, _, wrong), (verdict, comments) in zip(JUDGED, found):
        yield name, verdict == ("not ok" if wrong else "ok") and (wrong or "") in comments, comments


def refused(runner, folder):
    for name, changes, wrong in REFUSED:
        code, output = run(runner, folder, [changes])
        yield name, code == 1 and wrong in output and len(list(verdicts(output))) == 1, output


def main():
    runner = Path(sys.argv[1])
    failed = 0
    print(f"1..{1 + len(JUDGED) + len(REFUSED)}")
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        for name, text in PROJECT.items():
            (folder / name).write_text(text, encoding="utf-8")
        shutil.copy(runner.parent / "only_case.c", folder)
        subprocess.run(["git", "init", "-q", directory], check=True)
        for number, (name, good, output) in enumerate([*judged(runner, folder), *refused(runner, folder)], 1):
            failed += not good
            if not good:
                print("\n".join(f"# {line}" for line in output.splitlines()))
            print(f"{'ok' if good else 'not ok'} {number} - {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
