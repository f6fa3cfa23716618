# SPDX-License-Identifier: Apache-2.0
"""What the commands that measure moving VMs share: how they are stopped, and where their tables go."""
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


def write_into(path, lines):
    """In the place of the last ones of this command."""
    begin = f"<!-- made by perf/{os.path.basename(sys.argv[0])} -->"
    with open(path, encoding="utf-8") as file:
        before, rest = file.read().split(begin)
    after = rest.split(END, 1)[1]
    text = "\n".join(lines)
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{before}{begin}\n\n{text}\n\n{END}{after}")


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
