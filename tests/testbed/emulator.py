# SPDX-License-Identifier: Apache-2.0
"""The QEMUs that tests run: the one that is installed, and that of Debian's backports, fetched once, never installed."""
import glob
import os
import subprocess

import debian

PROGRAM = "qemu-system-x86_64"
KINDS = ("installed", "backports")


class Emulator:
    def __init__(self, folder="", program=PROGRAM):
        self.program = f"{folder}/usr/bin/{PROGRAM}" if folder else program
        data = [f"{folder}/usr/share/{name}" for name in ("qemu", "seabios")] if folder else []
        self.options = [word for path in data if os.path.isdir(path) for word in ("-L", path)]
        # Only libraries that are not installed here, if there are any.
        self.libraries = sorted({os.path.dirname(path) for path in glob.glob(f"{folder}/usr/lib/*/*.so*")})

    def environment(self):
        return {"LD_LIBRARY_PATH": ":".join(self.libraries)} if self.libraries else {}

    def version(self):
        said = subprocess.run([self.program, "--version"], check=True, capture_output=True, encoding="utf-8",
                              env={**os.environ, **self.environment()}).stdout
        return said.splitlines()[0].split("version ")[1].split()[0]


def fetch(scratch, made):
    apt = debian.Apt(scratch, ("", "-updates", "-security", "-backports"))
    packages = apt.download_with_what_is_missing("qemu-system-x86", f"{apt.release}-backports")
    unpacked = os.path.join(scratch, "unpacked")
    debian.unpack(packages, unpacked)
    # Documentation is most of it.
    for path in (f"usr/bin/{PROGRAM}", "usr/lib", "usr/share/qemu", "usr/share/seabios"):
        if os.path.exists(os.path.join(unpacked, path)):
            os.makedirs(os.path.dirname(os.path.join(made, path)), exist_ok=True)
            os.rename(os.path.join(unpacked, path), os.path.join(made, path))


def get(kind, cache):
    return Emulator() if kind == "installed" else Emulator(debian.once(cache, f"qemu-{kind}", fetch))


def named(word, cache):
    """A kind, or the path of a program."""
    return get(word, cache) if word in KINDS else Emulator(program=word)
