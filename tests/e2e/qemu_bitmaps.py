# SPDX-License-Identifier: Apache-2.0
"""Dirty bitmaps of block nodes, by which backup programs know what to copy: they arrive as they were, and go on."""
from host import M, wait_until
from qemu import move
from qemu_devices import PAGES, Machine

SIZE = 64 * M
BITMAPS = (("disk", "nightly"), ("disk", "weekly"), ("disk", "stopped"), ("scratch", "live"))


def image(host):
    """An empty qcow2 image."""
    path = host.name("image")
    with open(path, "wb"):
        pass
    maker = Machine(host, "-blockdev", f"file,node-name=new,filename={path}")
    maker.execute("blockdev-create", **{"job-id": "new", "options": {"driver": "qcow2", "file": "new", "size": SIZE}})
    job = wait_until(lambda: [job for job in maker.execute("query-jobs") if job["status"] == "concluded"],
                     "the image is made")[0]
    assert "error" not in job, job
    maker.process.kill()
    maker.process.wait()
    return path


def nodes(path):
    return ("-blockdev", f"file,node-name=file,filename={path}", "-blockdev", "qcow2,node-name=disk,file=file",
            "-blockdev", f"null-co,node-name=scratch,size={SIZE}")


def write(vm, node, offset, length):
    said = vm.execute("human-monitor-command", **{"command-line": f'qemu-io {node} "write {offset} {length}"'})
    assert "error" not in said.lower() and "failed" not in said, said


def add(vm, node, name, **more):
    vm.execute("block-dirty-bitmap-add", node=node, name=name, **more)


def digests(vm):
    return {(node, name): vm.execute("x-debug-block-dirty-bitmap-sha256", node=node, name=name)["sha256"]
            for node, name in BITMAPS}


def described(vm):
    return {(node["node-name"], bitmap["name"]): bitmap for node in vm.execute("query-named-block-nodes")
            for bitmap in node.get("dirty-bitmaps", [])}


def source_with_bitmaps(host, path):
    source = Machine(host, *nodes(path))
    add(source, "disk", "nightly", persistent=True)
    write(source, "disk", M, 3 * M)
    add(source, "disk", "weekly", granularity=4096)
    add(source, "disk", "stopped", persistent=True)
    add(source, "scratch", "live")
    write(source, "disk", 40 * M, 4096)
    write(source, "scratch", 7 * M, 65536)
    source.execute("block-dirty-bitmap-disable", node="disk", name="stopped")
    write(source, "disk", 50 * M, 4096)
    return source


def bitmaps_arrive_and_go_on(host):
    host.need(2 * M, PAGES)
    path = image(host)
    source = source_with_bitmaps(host, path)
    sums, were = digests(source), described(source)
    assert len(set(sums.values())) == len(BITMAPS) and all(were[key]["count"] > 0 for key in BITMAPS), were
    destination = Machine(host, *nodes(path), incoming=True)
    move(host, source, destination)
    assert digests(destination) == sums
    assert described(destination) == were
    write(destination, "disk", 60 * M, 4096)
    write(destination, "scratch", 60 * M, 4096)
    changed = {key for key, value in digests(destination).items() if value != sums[key]}
    assert changed == set(BITMAPS) - {("disk", "stopped")}, changed


CASES = [
    bitmaps_arrive_and_go_on,
]
