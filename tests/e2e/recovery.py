# SPDX-License-Identifier: Apache-2.0
"""Programs that are killed after the hand-over, again and again: the migration goes on, and no byte is lost."""
import os
import random
import socket

from host import wait_until
from recovering import Move, rest

KILLS = 10  # in each migration


def kill_one(move, chance):
    """At some moment: of the transfer, of the pause, or of the start that the last one caused."""
    rest(chance.uniform(0, 0.4))
    which = chance.choice(("send", "receive"))
    move.kill(which)
    rest(chance.uniform(0, 0.15))
    move.start(which)


def killed(scheme, placement):
    def case(host):
        seed = int(os.environ.get("HF_E2E_SEED", random.randrange(1 << 32)))
        print(f"# seed {seed}", flush=True)
        chance = random.Random(seed)
        move = Move(host, scheme=scheme, placement=placement).hand_over()
        for _ in range(KILLS):
            kill_one(move, chance)
        assert move.looks.count, "nobody looked"
        move.complete()
    case.__name__ = f"ten_kills_lose_nothing_over_{scheme}_by_{placement}"
    return case


def both_killed(first, second):
    def case(host):
        move = Move(host).hand_over()
        for which in ("send", "receive"):
            move.programs[which].kill()
        for process in move.programs.values():
            process.wait(30)
        move.start(first)
        rest(0.3)
        move.start(second)
        move.complete()
    case.__name__ = f"both_killed_at_once_{first}_is_started_first"
    return case


def a_source_vmm_killed_after_it_was_given_up_does_not_matter(host):
    move = Move(host).hand_over()
    wait_until(move.source.is_frozen, "the source is frozen")
    move.source.process.kill()
    move.source.process.wait(10)
    move.complete(vmm_ended=True)


def a_cont_written_to_a_frozen_vmm_is_never_done(host):
    move = Move(host).hand_over()
    wait_until(move.source.is_frozen, "the source is frozen")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(move.source.qmp_path)
        client.sendall(b'{"execute": "qmp_capabilities"}\n{"execute": "cont"}\n')
        move.kill("send")
        move.start("send")
        move.complete()


CASES = [
    killed("tcp", "continue"),
    killed("tcp", "copy"),
    killed("unix", "continue"),
    killed("unix", "copy"),
    killed("tcp", "continue"),
    killed("unix", "copy"),
    both_killed("send", "receive"),
    both_killed("receive", "send"),
    a_source_vmm_killed_after_it_was_given_up_does_not_matter,
    a_cont_written_to_a_frozen_vmm_is_never_done,
]
