# SPDX-License-Identifier: Apache-2.0
"""A libvirtd of our own. Where it writes (/etc, /run and /var) are file systems in memory that only it sees."""
import os
import shutil
import subprocess
import sys

from host import comes_true, err_of

FOLDERS = [f"{parent}/libvirt" for parent in ("/etc", "/run", "/var/lib", "/var/log", "/var/cache")]
USER = "libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin\n"  # Debian's package makes it; libvirt wants to know it
GROUP = "libvirt-qemu:x:64055:\n"
LIBVIRTD = """
listen_tls = 0
listen_tcp = 0
auth_unix_rw = "none"
unix_sock_dir = "{folder}"
log_outputs = "3:stderr"
"""
# No AppArmor, no cgroups, no virtlogd, and a /dev as it is here.
QEMU = """
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
memory_backing_dir = "{memory}"
"""


class Libvirt:
    def __init__(self, host, memory):
        self.memory, self.folder, self.process = memory, host.name("libvirt"), None
        os.mkdir(self.folder)
        # Mount points, which this host need not have.
        self.made = [path for path in FOLDERS if not os.path.exists(path)]
        for path in self.made:
            os.mkdir(path)
        host.closing.append(self.close)
        self.write("libvirtd.conf", LIBVIRTD.format(folder=self.folder))
        self.write("qemu.conf", QEMU.format(memory=memory))
        for name, line in (("passwd", USER), ("group", GROUP)):
            with open(f"/etc/{name}", encoding="utf-8") as file:
                self.write(name, file.read() + line)
        self.process = host.start("unshare", "--mount", "--propagation", "private", sys.executable, __file__,
                                  self.folder)
        assert comes_true(lambda: self.process.poll() is not None or self.virsh("version").returncode == 0, 30)
        assert self.process.poll() is None, err_of(self.process)

    def write(self, name, text):
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as file:
            file.write(text)

    def virsh(self, *words):
        uri = f"qemu+unix:///system?socket={self.folder}/libvirt-sock"
        return subprocess.run(["virsh", "-q", "-c", uri, *words], capture_output=True, text=True, timeout=60,
                              check=False)

    def do(self, *words):
        result = self.virsh(*words)
        assert result.returncode == 0, (words, result.stderr)
        return result.stdout.strip()

    def define(self, name, text):
        self.write(name, text)
        self.do("define", os.path.join(self.folder, name))

    def close(self):
        if self.process:
            for name in self.virsh("list", "--name").stdout.split():
                self.virsh("destroy", name)
            self.process.terminate()
            self.process.wait(30)
        shutil.rmtree(os.path.join(self.memory, "libvirt"), ignore_errors=True)
        for path in self.made:
            os.rmdir(path)


def mount(*words):
    subprocess.run(["mount", *words], check=True)


def main(folder):
    """In a mount namespace of its own: becomes libvirtd."""
    for path in FOLDERS:
        mount("-t", "tmpfs", "tmpfs", path)
    for name in ("libvirtd.conf", "qemu.conf"):
        shutil.copy(os.path.join(folder, name), "/etc/libvirt")
    for name in ("passwd", "group"):
        mount("--bind", os.path.join(folder, name), f"/etc/{name}")
    os.execvp("libvirtd", ["libvirtd", "-f", "/etc/libvirt/libvirtd.conf", "-p", os.path.join(folder, "pid")])


if __name__ == "__main__":
    main(sys.argv[1])
