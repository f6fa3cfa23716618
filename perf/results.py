# SPDX-License-Identifier: Apache-2.0
"""What the commands that measure moving VMs share: options, warm memory, how they are stopped, and where their tables go."""
import argparse
import contextlib
import json
import os
import platform
import signal
import sys

from host import Host

END = "<!-- end of the table -->"


class Stopped(BaseException):
    pass


def stop(*_):
    raise Stopped


def machine():
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return f"{os.cpu_count()} CPUs, {memory_gib:.0f} GiB, Linux {platform.release()}"


@contextlib.contextmanager
def warm_pages(host, page_size, pages):
    """Huge pages for all runs, touched once: what a host's own hypervisor takes to bring them is nobody's."""
    before = host.pool(page_size)
    try:
        # The total, not the pool: what is in use without being in the pool would be taken into it first.
        total = host.read_counter(page_size, "nr_hugepages")
        host.set_pool(page_size, total + pages - host.available(page_size))
        assert host.available(page_size) >= pages, f"{pages} huge pages cannot be had"
        path = os.path.join(host.mount(page_size), "warm")
        with open(path, "w+b") as file:
            os.posix_fallocate(file.fileno(), 0, host.available(page_size) * page_size)
        os.unlink(path)
        yield
    finally:
        host.set_pool(page_size, before)


def read_json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write_into(path, lines):
    """In the place of the last ones of this command."""
    begin = f"<!-- made by perf/{os.path.basename(sys.argv[0])} -->"
    with open(path, encoding="utf-8") as file:
        before, rest = file.read().split(begin)
    after = rest.split(END, 1)[1]
    text = "\n".join(lines)
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{before}{begin}\n\n{text}\n\n{END}{after}")


def parse(document, runs, runs_are, mem_mib, more_options=lambda parser: None):
    """The options that such a command has, and those that more_options() adds."""
    parser = argparse.ArgumentParser(description=document.splitlines()[0])
    parser.add_argument("build", help="build directory")
    parser.add_argument("--runs", type=int, default=runs, help=runs_are)
    parser.add_argument("--mem", type=int, default=mem_mib, help="MiB of the VM")
    parser.add_argument("--into", metavar="FILE", help="where the table is to stand in the place of the last one")
    parser.add_argument("--log", action="store_true", help="the runs of each row on stderr")
    more_options(parser)
    options = parser.parse_args()
    options.mem <<= 20
    return options


def print_table(options, measure):
    """The lines as they come; gives everything back, also when it is interrupted. Returns the exit code."""
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    host = Host(os.path.abspath(options.build))
    said = []
    try:
        for line in measure(host, options):
            print(line, flush=True)
            said.append(line)
    except Stopped:
        return 1
    finally:
        host.close()
    if options.into:
        write_into(options.into, said)
    return 0
