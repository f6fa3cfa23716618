# SPDX-License-Identifier: Apache-2.0
"""Packages of Debian's for the tests: fetched once by apt, never installed.

apt gets a private configuration made from the machine's sources; nothing outside the folder it is given changes.
"""
import fcntl
import os
import re
import shutil
import subprocess
import tempfile


class NoPackage(Exception):
    """Says to an operator why something cannot be had, and what to do."""


def codename():
    with open("/etc/os-release", encoding="utf-8") as file:
        match = re.search(r"^VERSION_CODENAME=(\w+)$", file.read(), re.MULTILINE)
    if not match:
        raise NoPackage("/etc/os-release names no release: kernels and QEMUs of the tests are Debian's")
    return match.group(1)


def source_files(suffix):
    folder = "/etc/apt/sources.list.d"
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    paths = [os.path.join(folder, name) for name in names if name.endswith(suffix)]
    if suffix == ".list":
        paths.insert(0, "/etc/apt/sources.list")
    for path in paths:
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                yield file.read()


def derived_suites(named, release, endings):
    """An entry that has the release itself has its -backports too, whether anybody uses them or not."""
    wanted, backports = [release + ending for ending in endings], release + "-backports"
    return [suite for suite in wanted if suite in named or (suite == backports and release in named)]


def write_sources(folder, release, endings):
    """Entries of the machine's own sources, in either of apt's formats, with the suites that are wanted."""
    stanzas, lines = [], []
    for text in source_files(".sources"):
        for stanza in re.split(r"\n\s*\n", text):
            stanza = "".join(line + "\n" for line in stanza.splitlines() if line and not line.startswith("#"))
            match = re.search(r"^Suites:(.*)$", stanza, re.MULTILINE)
            suites = derived_suites(match.group(1).split(), release, endings) if match else []
            if suites:
                stanzas.append(stanza.replace(match.group(0), f"Suites: {' '.join(suites)}"))
    for text in source_files(".list"):
        for match in re.finditer(r"^(deb\s+(?:\[[^]]*\]\s+)?\S+)\s+(\S+)\s+(.*)$", text, re.MULTILINE):
            lines += [f"{match.group(1)} {suite} {match.group(3)}\n"
                      for suite in derived_suites([match.group(2)], release, endings)]
    if not stanzas and not lines:
        raise NoPackage(f"no source of apt has the suite {release}: kernels and QEMUs of the tests come from there")
    for name, parts, between in (("testbed.sources", stanzas, "\n"), ("testbed.list", lines, "")):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(between.join(parts))


def run(*command, **more):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          encoding="utf-8", errors="replace", check=False, **more)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise NoPackage(f"{' '.join(command[:1] + command[-2:])} failed: {said}")
    return done.stdout


class Apt:
    """Of the release's suites with these endings; what it downloads lies in `folder`."""

    def __init__(self, folder, endings):
        self.folder, self.release = folder, codename()
        for part in ("sources", "lists/partial", "cache/archives/partial"):
            os.makedirs(os.path.join(folder, part))
        write_sources(os.path.join(folder, "sources"), self.release, endings)
        self.options = ["-q", "-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={folder}/sources",
                        "-o", f"Dir::State::lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache",
                        "-o", "APT::Sandbox::User=root"]
        run("apt-get", *self.options, "update")

    def depends(self, package):
        return run("apt-cache", *self.options, "depends", package)

    def download(self, package):
        run("apt-get", *self.options, "download", package, cwd=self.folder)
        return [os.path.join(self.folder, name) for name in os.listdir(self.folder) if name.endswith(".deb")]

    def download_with_what_is_missing(self, package, suite):
        """The package of this suite and those it needs that are not installed here in a version it can use."""
        run("apt-get", *self.options, "install", "--download-only", "--no-install-recommends", "--reinstall", "-y",
            f"{package}/{suite}")
        archives = os.path.join(self.folder, "cache/archives")
        return [os.path.join(archives, name) for name in os.listdir(archives) if name.endswith(".deb")]


def unpack(packages, folder):
    for package in packages:
        run("dpkg-deb", "-x", package, folder)


def once(cache, name, make):
    """The folder `name` of the cache: filled by make(SCRATCH, FOLDER) when it is not there, and there only whole."""
    target = os.path.join(cache, name)
    os.makedirs(cache, exist_ok=True)
    with open(os.path.join(cache, "lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(target):
            scratch = tempfile.mkdtemp(prefix="new-", dir=cache)
            try:
                make(scratch, os.path.join(scratch, "made"))
                os.rename(os.path.join(scratch, "made"), target)
            finally:
                shutil.rmtree(scratch)
    return target
