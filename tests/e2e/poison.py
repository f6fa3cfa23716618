# SPDX-License-Identifier: Apache-2.0
"""A source that is gone for good: the operator has the missing pages poisoned, and the rest of the VM lives."""
import json
import os
import signal

from control import Control, Watched, continue_vm, refusal
from host import G, M, Qmp, Vmm, assert_runs, assert_whole, err_of, finish, one_line, receive, wait_until
from relay import hand_over_within

MEM = 512 * M
MEMORY_ERRORS = 12  # of the guest's counters


def paused(host, *extra):
    """The VM runs at the destination with some of its pages; the source's host is gone."""
    host.need(2 * M, 1024)
    path = host.name("qmp")
    source = Vmm(host, mem=MEM, extra=("--fill", 80))
    destination = Vmm(host, incoming=True, mem=MEM)
    taker = receive(host, destination, "--no-background", *host.state_options("receive", 600), "--qmp",
                    f"unix:{path}", *extra)
    # Never all of them, however late this looks.
    giver, _ = hand_over_within(host, source, destination, taker, 128 * M, *host.state_options("send", 600))
    control = Control(path)
    # The guest's own pages are among the first it needs.
    wait_until(lambda: control.execute("query-migrate").get("hugeferry", {}).get("pages_received", 0) > 8, "pages come")
    for process in (giver, source.process):
        process.kill()
        process.wait()
    wait_until(lambda: "waiting at" in err_of(taker), "receive waits for the source")
    return destination, taker, control


def lost_pages(report):
    return [page for run in report["poisoned"] for page in range(run["first_page"], run["first_page"] + run["pages"])]


def check_report(path, destination):
    with open(path, encoding="utf-8") as file:
        report = json.load(file)
    lost = lost_pages(report)
    assert report["status"] == "completed" and len(lost) == report["pages_poisoned"] > 0, report
    assert report["pages_received"] + report["pages_poisoned"] == report["pages_total"] == MEM // (2 * M), report
    assert report["pages_zero"] > 0, report
    assert f"{len(lost)} of {MEM // (2 * M)} pages are lost" in report["error"]["text"], report["error"]
    assert "'ram0'" in report["error"]["text"]
    assert destination.process.poll() is None
    return lost


def assert_lives_without(host, destination, lost):
    """It goes on, meets the lost pages as memory errors, and has every other byte."""
    errors = destination.counted(MEMORY_ERRORS)
    wait_until(lambda: destination.counted(MEMORY_ERRORS) > errors + 10, "the guest gets memory errors", 60)
    assert_runs(destination)
    assert destination.errors() == 0
    client = Qmp(destination.qmp_path)
    client.execute("stop")
    client.close()
    code, said = finish(host.start(host.verify, destination.ram, *lost))
    assert code == 0, said


def missing_pages_are_poisoned_over_the_control_socket(host, *options):
    path = host.name("json")
    destination, taker, control = paused(host, "--json", path, *options)
    assert "too late to cancel" in refusal(control, "migrate_cancel")[1]
    assert control.execute("x-poison-missing") == {}
    code, said = finish(taker)
    assert code == 5, (code, said)
    assert "pages are lost for good" in said.splitlines()[-1], said
    assert_lives_without(host, destination, check_report(path, destination))


def missing_pages_are_poisoned_in_placement_copy(host):
    missing_pages_are_poisoned_over_the_control_socket(host, "--placement", "copy")


def missing_pages_are_poisoned_by_a_new_start(host):
    path = host.name("json")
    destination, taker, _ = paused(host)
    taker.kill()
    taker.wait()
    again = receive(host, destination, *host.state_options("receive", 600), "--poison-missing", "--json", path)
    code, said = finish(again)
    assert code == 5, (code, said)
    one_line(said, "pages are lost for good")
    assert_lives_without(host, destination, check_report(path, destination))
    # Nothing is left to go on from.
    code, said = finish(receive(host, destination, *host.state_options("receive", 600), "--poison-missing"))
    assert code == 1, (code, said)
    one_line(said, "there is no record")


def a_signal_in_a_pause_poisons_nothing(host):
    destination, taker, _ = paused(host)
    taker.send_signal(signal.SIGTERM)
    code, said = finish(taker)
    assert code == 4 and "lost for good" not in said, (code, said)
    assert destination.status() == "running" and destination.counted(MEMORY_ERRORS) == 0


def poisoning_is_refused_while_the_source_is_there(host):
    move = Watched(host, G, "--no-background")
    move.go()
    move.stop_destination()
    error, why = refusal(move.into, "x-poison-missing")
    assert error == "GenericError" and "the source is connected" in why, (error, why)
    assert refusal(move.out, "x-poison-missing")[0] == "CommandNotFound"
    move.taker.send_signal(signal.SIGUSR1)
    assert finish(move.giver)[0] == 0 and finish(move.taker)[0] == 0, (err_of(move.giver), err_of(move.taker))
    continue_vm(move.destination)
    assert_runs(move.destination)
    assert_whole(host, move.destination)


def kill_at(host, process, thread_name, call, number):
    """The process is killed where its thread makes this system call for so many times, counted from here on."""
    threads = f"/proc/{process.pid}/task"

    def name_of(thread):
        with open(f"{threads}/{thread}/comm", encoding="ascii") as file:
            return file.read().strip()
    thread = next(thread for thread in os.listdir(threads) if name_of(thread) == thread_name)
    tracer = host.start("strace", "-p", thread, "-e", f"trace={call}", "-e",
                        f"inject={call}:signal=SIGKILL:when={number}")
    wait_until(lambda: "attached" in err_of(tracer) or tracer.poll() is not None, "the tracer holds the thread")
    assert tracer.poll() is None, err_of(tracer)


def a_receiver_killed_while_it_poisons_goes_on_poisoning(host):
    """Once a page is poisoned, a start without the option goes on."""
    path = host.name("json")
    destination, taker, control = paused(host, "--placement", "copy")
    # A page is taken out of the RAM file just before it is poisoned; nothing else that this thread does calls it.
    kill_at(host, taker, "hf-place-b", "fallocate", 20)
    control.ask("x-poison-missing")
    assert finish(taker)[0] == -signal.SIGKILL, err_of(taker)
    again = receive(host, destination, *host.state_options("receive", 600), "--json", path)
    code, said = finish(again)
    assert code == 5, (code, said)
    lost = check_report(path, destination)
    assert len(lost) >= 20, lost  # those of the process before are among them
    assert_lives_without(host, destination, lost)


CASES = [
    missing_pages_are_poisoned_over_the_control_socket,
    missing_pages_are_poisoned_in_placement_copy,
    missing_pages_are_poisoned_by_a_new_start,
    a_signal_in_a_pause_poisons_nothing,
    poisoning_is_refused_while_the_source_is_there,
    a_receiver_killed_while_it_poisons_goes_on_poisoning,
]
