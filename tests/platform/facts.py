#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The table of platform facts, from the heads of the programs.

    facts.py ROOT           checks that tests/platform/README.md has it as it is; prints TAP
    facts.py ROOT --write   writes it there

Each program opens with three paragraphs, "Fact: ...", "Kernel: ..." and "Relied on by: ...", and what is relied
on must exist. The table lies between the two marker lines of the README.
"""
import os
import re
import sys

HEAD = re.compile(r"/\*\n \* Fact: (.*?)\n \*\n \* Kernel: (.*?)\n \*\n \* Relied on by: (.*?)\n \*/", re.DOTALL)
BEGIN, END = "<!-- facts -->\n", "<!-- end of facts -->\n"
SHARED = ("platform.c", "platform_memory.c", "platform_kvm.c")
FILE = re.compile(r"\b[\w-]+/[\w/.-]+\.(?:c|h|py|md)\b|\b[A-Z]+\.md\b")


def one_line(text):
    return " ".join(text.replace("\n *", "\n").split()).rstrip(".").replace("|", "\\|")


def rows(root, complaints):
    folder = os.path.join(root, "tests/platform")
    with open(os.path.join(folder, "meson.build"), encoding="utf-8") as file:
        built = set(re.findall(r"^  '(\w+)',$", file.read(), re.MULTILINE))
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".c") or name in SHARED:
            continue
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            head = HEAD.search(file.read())
        if not head:
            complaints.append(f"{name} does not open with Fact, Kernel and Relied on by")
            continue
        if name[:-2] not in built:
            complaints.append(f"{name} is not in meson.build")
        fact, kernel, relied = map(one_line, head.groups())
        files = FILE.findall(relied)
        complaints += [f"{name}: no {file}" for file in files if not os.path.exists(os.path.join(root, file))]
        if not files:
            complaints.append(f"{name}: no file relies on it")
        yield f"| `{name[:-2]}` | {fact} | {kernel} | {relied} |\n"


def main():
    root = os.path.abspath(sys.argv[1])
    complaints = []
    table = "| program | fact | kernel | relied on by |\n|---|---|---|---|\n" + "".join(rows(root, complaints))
    path = os.path.join(root, "tests/platform/README.md")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    wanted = f"{before}{BEGIN}{table}{END}{after}"
    if "--write" in sys.argv:
        with open(path, "w", encoding="utf-8") as file:
            file.write(wanted)
    elif text != wanted:
        complaints.append("the table in README.md is not what the programs say: facts.py ROOT --write")
    print("1..1")
    for complaint in complaints:
        print(f"# {complaint}")
    print(f"{'not ok' if complaints else 'ok'} 1 - the table of platform facts is that of the programs")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
