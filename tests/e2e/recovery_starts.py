# SPDX-License-Identifier: Apache-2.0
"""Programs that end in a pause and are started again, and starts that must be refused."""
import os
import signal
import subprocess

from host import assert_runs, err_of, finish, listening_uri, one_line, wait_until
from recovering import Move

BOTH = ("send", "receive")


def paused(host, **options):
    """Nothing goes through; what the relay led to is given back."""
    move = Move(host, **options).hand_over()
    to = move.relay.shut()
    wait_until(lambda: all("was lost" in err_of(process) for process in move.programs.values()) or move.ended(),
               "both sides notice", 30)
    return move, to


def ends_with(move, code):
    for which in BOTH:
        got, said = finish(move.programs[which], 60)
        assert got == code, (which, got, said)
    assert move.source.is_frozen()


def go_on(move, to):
    move.relay.to = to
    for which in BOTH:
        move.start(which)
    move.complete()


def stop_both(move):
    for which in BOTH:
        move.programs[which].send_signal(signal.SIGTERM)
    ends_with(move, 4)


def programs_stopped_in_a_pause_go_on_when_started_again(host):
    move, to = paused(host)
    stop_both(move)
    go_on(move, to)


def programs_whose_time_to_recover_has_passed_go_on_when_started_again(host):
    move, to = paused(host, recover_timeout=4)
    ends_with(move, 4)
    go_on(move, to)


def refused_start(move, which, *parts):
    code, said = finish(move.start(which), 30)
    assert code == 1, (code, said)
    one_line(said, *parts)


def a_damaged_file_is_refused_and_nothing_is_lost(host):
    move, to = paused(host)
    stop_both(move)
    for which, folder in (("send", move.folders[0]), ("receive", move.folders[1]), ("receive", move.folders[2])):
        path = os.path.join(folder, os.listdir(folder)[0])
        with open(path, "rb") as file:
            whole = file.read()
        with open(path, "r+b") as file:
            file.write(bytes(byte ^ 1 for byte in whole))
        refused_start(move, which, path)
        with open(path, "r+b") as file:
            assert file.read() == bytes(byte ^ 1 for byte in whole), "a damaged file was changed"
            file.seek(0)
            file.write(whole)
    assert move.source.is_frozen() and move.destination.status() == "running"
    go_on(move, to)


def a_vm_that_is_being_moved_is_not_taken_twice(host):
    move = Move(host).hand_over()
    giver, taker = move.giver, move.taker
    refused_start(move, "send", "another")
    refused_start(move, "receive", "another")
    move.programs = {"send": giver, "receive": taker}
    move.complete()


def a_vmm_that_has_ended_with_the_pages_is_told(host):
    move, _ = paused(host)
    stop_both(move)
    move.source.process.kill()
    move.source.process.wait(10)
    refused_start(move, "send", "has ended", move.folders[0])
    assert os.listdir(move.folders[0])
    move.destination.process.kill()  # its vCPUs wait for pages for ever


def mounted(host, folder, options):
    os.mkdir(folder)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=0700,{options}", "hugeferry-e2e", folder], check=True)
    host.closing.append(lambda: subprocess.run(["umount", "-l", folder], check=True))


def full(folder):
    with open(os.path.join(folder, "ballast"), "wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(1024))
            except OSError:
                return


def no_room_for_a_record_is_told_before_anything_stops(host):
    for which in (0, 1, 2):
        for options in ("ro", "size=16k"):
            move = Move(host)
            mounted(host, move.folders[which], options)
            if options != "ro":
                full(move.folders[which])
            listening_uri(move.start("receive"))
            code, said = finish(move.start("send"), 30)
            assert code == 1, (code, said)
            if which == 0:
                one_line(said, move.folders[0])
                assert finish(move.taker, 30)[0] == 1
            else:
                code, said = finish(move.taker, 30)
                assert code == 1 and move.folders[which] in said.splitlines()[-1], (code, said)
            assert_runs(move.source)
            assert move.destination.status() == "inmigrate"
            assert [name for folder in move.folders if os.path.exists(folder)
                    for name in os.listdir(folder)] in ([], ["ballast"])
            host.end_processes()


CASES = [
    programs_stopped_in_a_pause_go_on_when_started_again,
    programs_whose_time_to_recover_has_passed_go_on_when_started_again,
    a_damaged_file_is_refused_and_nothing_is_lost,
    a_vm_that_is_being_moved_is_not_taken_twice,
    a_vmm_that_has_ended_with_the_pages_is_told,
    no_room_for_a_record_is_told_before_anything_stops,
]
