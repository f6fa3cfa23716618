#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Counts test cases. Reads meson's testlog.json or a TAP stream and prints `passed failed skipped`.

A program whose output is TAP counts case by case; any other counts once. A program that fails without a
failed case (it crashed, timed out, or a sanitizer stopped it) is one failure more.
"""
import json
import re
import sys

LINE = re.compile(r"^\s*(not ok|ok)\b(.*)$")


def tally_tap(text):
    passed = failed = skipped = 0
    for line in text.splitlines():
        match = LINE.match(line)
        if not match:
            continue
        if re.search(r"#\s*skip", match.group(2), re.IGNORECASE):
            skipped += 1
        elif match.group(1) == "ok":
            passed += 1
        else:
            failed += 1
    return passed, failed, skipped


def tally_program(entry):
    passed, failed, skipped = tally_tap(entry.get("stdout") or "")
    result = entry["result"]
    if result == "SKIP":
        return passed, failed, max(skipped, 1)
    if result not in ("OK", "EXPECTEDFAIL") and not failed:
        failed = 1
    if not passed + failed + skipped:
        passed = 1
    return passed, failed, skipped


def show_skips(name, text):
    for line in text.splitlines():
        match = LINE.match(line)
        if match and re.search(r"#\s*skip", match.group(2), re.IGNORECASE):
            print(f"skipped in {name}:{match.group(2)}", file=sys.stderr)


def main():
    kind, path = sys.argv[1:]
    total = [0, 0, 0]
    with open(path, encoding="utf-8", errors="replace") as file:
        if kind == "tap":
            text = file.read()
            show_skips("e2e", text)
            total = list(tally_tap(text))
        else:
            for line in file:
                entry = json.loads(line)
                show_skips(entry["name"], entry.get("stdout") or "")
                total = [a + b for a, b in zip(total, tally_program(entry))]
    print(*total)


if __name__ == "__main__":
    main()
