# SPDX-License-Identifier: Apache-2.0
"""The QEMUs that tests run: the one that is installed, and that of Debian's backports, fetched once, never installed."""
import glob
import os

import debian

PROGRAM = "qemu-system-x86_64"
KINDS = ("installed", "backports")


class Emulator:
    def __init__(self, folder=""):
        self.program = f"{folder}/usr/bin/{PROGRAM}" if folder else PROGRAM
        data = [f"{folder}/usr/share/{name}" for name in ("qemu", "seabios")] if folder else []
        self.options = [word for path in data if os.path.isdir(path) for word in ("-L", path)]
        # Only libraries that are not installed here, if there are any.
        self.libraries = sorted({os.path.dirname(path) for path in glob.glob(f"{folder}/usr/lib/*/*.so*")})

    def environment(self):
        return {"LD_LIBRARY_PATH": ":".join(self.libraries)} if self.libraries else {}


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
