# SPDX-License-Identifier: Apache-2.0
"""The moment of the hand-over, held open: whatever ends in it, the VM runs on one side in the end."""
import json
import os
import signal

from host import assert_runs, assert_whole, err_of, finish, wait_until
from messages import DEVICE_END, LOADED
from recovering import Move


def record_of(folder):
    """What the newest slot of the only record says; None while there is none."""
    names = os.listdir(folder) if os.path.exists(folder) else []
    if not names:
        return None
    with open(os.path.join(folder, names[0]), encoding="latin-1") as file:
        slots = [json.loads(line) for line in file.read().replace("\0", "\n").splitlines()
                 if line.startswith("{") and '"record"' in line]
    return max(slots, key=lambda slot: slot["sequence"])["record"] if slots else None


def start(host, frame):
    """All but this frame arrives, until the relay is opened."""
    move = Move(host, rate=None, recover_timeout=8)
    move.relay.stop_before = frame
    move.begin_with(lambda: None)
    wait_until(lambda: move.relay.held.is_set() or move.ended(), "the frame is on its way")
    assert move.relay.held.is_set(), [err_of(process) for process in move.programs.values()]
    wait_until(lambda: move.source.status() == "frozen", "what has been saved is frozen")
    return move


def start_stopped(host):
    """The source VM has been stopped, and the destination cannot load it."""
    return start(host, DEVICE_END)


def start_loaded(host):
    """The destination has said LOADED, and the source has not heard it."""
    move = start(host, LOADED)
    assert record_of(move.folders[1]) == "loaded"
    return move


def let_go(move):
    """The link is lost, and new ones go through."""
    move.relay.stop_before = None
    move.relay.cut()
    move.relay.open.set()


def stays(move, had_state=True):
    """The VM is the source's in the end; who has a copy of its state is ended, and nothing else is left."""
    for which, process in move.programs.items():
        code, said = finish(process, 60)
        assert code == 1, (which, code, said)
    assert_runs(move.source)
    assert move.destination.status() == ("ended" if had_state else "inmigrate")
    assert move.source.errors() == 0
    assert_whole(move.host, move.source)
    move.assert_nothing_left()


def an_agent_killed_while_the_vm_is_stopped_has_it_run_at_once(host):
    move = start_stopped(host)
    move.kill("send")
    wait_until(lambda: move.source.status() == "running", "the guardian runs it again", 1)
    let_go(move)
    finish(move.taker, 60)
    move.start("send")
    stays(move, had_state=False)


def an_agent_killed_before_it_heard_loaded_says_fail_when_started_again(host):
    move = start_loaded(host)
    move.kill("send")
    wait_until(lambda: move.source.status() == "running", "the guardian runs it again", 1)
    assert move.taker.poll() is None and move.destination.status() != "running"
    let_go(move)
    move.start("send")
    stays(move)


def a_link_lost_with_loaded_on_its_way_leaves_the_vm_at_the_source(host):
    move = start_loaded(host)
    let_go(move)
    wait_until(lambda: move.source.status() == "running", "the source runs on", 5)
    stays(move)


def a_destination_vmm_killed_in_doubt_gives_the_vm_back(host):
    move = start_loaded(host)
    move.destination.process.kill()
    move.destination.process.wait(10)
    move.relay.open.set()
    stays(move)


def a_destination_agent_killed_in_doubt_goes_on_when_started_again(host):
    move = start_loaded(host)
    move.kill("receive")
    let_go(move)
    move.start("receive")
    stays(move)


def a_vm_that_another_client_runs_before_the_fence_stays(host):
    move = start_stopped(host)
    move.source.process.send_signal(signal.SIGCONT)
    move.source.execute("cont")
    move.relay.open.set()
    stays(move)
    for process in move.programs.values():
        assert "run" in err_of(process), err_of(process)
    print(f"# {err_of(move.giver)}# {err_of(move.taker)}")


CASES = [
    an_agent_killed_while_the_vm_is_stopped_has_it_run_at_once,
    an_agent_killed_before_it_heard_loaded_says_fail_when_started_again,
    a_link_lost_with_loaded_on_its_way_leaves_the_vm_at_the_source,
    a_destination_vmm_killed_in_doubt_gives_the_vm_back,
    a_destination_agent_killed_in_doubt_goes_on_when_started_again,
    a_vm_that_another_client_runs_before_the_fence_stays,
]
