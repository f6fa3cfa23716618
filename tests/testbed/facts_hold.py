# SPDX-License-Identifier: Apache-2.0
"""The platform facts, on kernels other than the host's: each holds, or needs what this kernel is known to lack."""
import os
import re

from host import err_of, finish, out_of

HERE = os.path.dirname(os.path.abspath(__file__))
LACKED = {
    "default": {"wp-unpopulated", "wp-async", "poison",
                # A root in memory has it from 6.6 on.
                "a file system with O_DIRECT in /var/tmp: Operation not supported"},
    "backports": set(),
}


def names():
    with open(os.path.join(os.path.dirname(HERE), "platform/meson.build"), encoding="utf-8") as file:
        return re.findall(r"^  '(\w+)',$", file.read(), re.MULTILINE)


def fact(name, kernel):
    def case(host):
        process = host.start(os.path.join(host.build, "tests/platform", name))
        code, said = finish(process, 60)
        lacked = re.findall(r"^# this kernel lacks: (.*)$", said, re.MULTILINE)
        if code == 77 and lacked:
            wrong = {feature for line in lacked for feature in line.split(", ")} - LACKED[kernel]
            assert not wrong, f"the kernel was thought to have {wrong}"
            return
        assert code == 0, (code, out_of(process), err_of(process))
    case.__name__ = f"fact_{name}"
    return case


def cases(kernel):
    return [fact(name, kernel) for name in names()]
