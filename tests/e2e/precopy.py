# SPDX-License-Identifier: Apache-2.0
"""Pages move in rounds while a real guest runs and writes; every byte is checked at the destination."""
import json

from control import Control, refusal
from host import M, Vmm, assert_runs, assert_whole, err_of, finish, listening_uri, one_line, receive, send, wait_until
from networks import ADDRESSES

MEM = 512 * M


class Move:
    def __init__(self, host, guest, *options, mem=MEM, taker_options=(), networks=None, listen=None):
        host.need(2 * M, 2 * mem // (2 * M) + 64)
        self.host = host
        self.source = Vmm(host, mem=mem, extra=guest)
        self.destination = Vmm(host, incoming=True, mem=mem)
        self.reports = host.name("send-json"), host.name("receive-json")
        self.qmp = host.name("send-qmp")
        enter = [networks.enter(number) if networks else None for number in range(2)]
        self.taker = receive(host, self.destination, "--json", self.reports[1], *taker_options,
                             listen=listen or f"tcp:{ADDRESSES[1] if networks else '127.0.0.1'}:0",
                             before_exec=enter[1])
        self.giver = send(host, self.source, listening_uri(self.taker), "--attach", self.source.attach,
                          "--json", self.reports[0], "--qmp", f"unix:{self.qmp}", *options, before_exec=enter[0])

    def control(self):
        def connect():
            try:
                return Control(self.qmp)
            except OSError:
                return None
        return wait_until(connect, "send has its socket")

    def completes(self):
        """Both sides are content, the guest runs on and found nothing wrong, and every byte is what it was."""
        assert finish(self.giver)[0] == 0 and finish(self.taker)[0] == 0, (err_of(self.giver), err_of(self.taker))
        assert_runs(self.destination)
        assert self.destination.errors() == 0
        assert_whole(self.host, self.destination)
        reports = []
        for path in self.reports:
            with open(path, encoding="utf-8") as file:
                reports.append(json.load(file))
        return reports

    def stays(self, code):
        got, said = finish(self.giver)
        assert got == code, (got, said)
        assert finish(self.taker)[0] != 0
        assert_runs(self.source)
        assert self.source.errors() == 0
        assert_whole(self.host, self.source)
        return said


def rounds_at_least(control, rounds):
    def look():
        info = control.execute("query-migrate")
        return info if info.get("ram", {}).get("dirty-sync-count", 0) >= rounds else None
    return wait_until(look, f"{rounds} rounds")


IDLE = ("--write-share", 0)
SLOW = ("--pattern", "hot", "--write-share", 5)
FAST = ("--pattern", "random", "--write-share", 100)
# A page takes longer than the downtime limit of a millisecond, a round longer than any vCPU waits for its turn.
NARROW = ("--max-bandwidth", "400M")


def a_guest_that_only_reads_is_moved_before_it_stops(host):
    giver, taker = Move(host, IDLE, "--precopy").completes()
    assert giver["precopy"]["rounds"] >= 1 and taker["precopy_rounds"] == giver["precopy"]["rounds"]
    assert giver["precopy"]["moved_bytes"] > 0.9 * giver["sent_bytes"], giver
    assert taker["precopy_bytes"] == giver["precopy"]["moved_bytes"]


def a_guest_that_writes_slowly_is_moved(host):
    giver, _ = Move(host, SLOW, "--precopy").completes()
    assert giver["precopy"]["ended_because"], giver


def a_guest_that_writes_fast_ends_in_postcopy(host):
    giver, taker = Move(host, FAST, "--precopy", "--downtime-limit", 1, *NARROW).completes()
    assert giver["precopy"]["rounds"] >= 1, giver
    assert taker["postcopy_time_ns"] > 0 and taker["pages_received"] == taker["pages_total"]


def without_postcopy_no_page_is_missing_when_it_runs(host):
    giver, taker = Move(host, SLOW, "--precopy-only").completes()
    assert giver["precopy"]["expected_downtime_ns"] <= giver["precopy"]["downtime_limit_ns"], giver
    assert taker["postcopy_time_ns"] is None, taker


def without_postcopy_a_writer_that_is_too_fast_goes_on_until_the_limit_is_raised(host):
    move = Move(host, FAST, "--precopy-only", "--downtime-limit", 1, *NARROW)
    control = move.control()
    info = rounds_at_least(control, 5)
    assert info["status"] == "active" and info["ram"]["dirty-pages-rate"] > 0, info
    error, why = refusal(control, "migrate-start-postcopy")
    assert error == "GenericError" and "--precopy-only" in why, (error, why)
    assert_runs(move.source)
    control.execute("migrate-set-parameters", **{"downtime-limit": 30000})
    assert control.execute("query-migrate-parameters")["downtime-limit"] == 30000
    move.completes()


def without_postcopy_time_runs_out_and_the_guest_stays(host):
    said = Move(host, FAST, "--precopy-only", "--downtime-limit", 1, *NARROW, "--timeout", 3).stays(3)
    assert "within 3 s" in said, said


def postcopy_on_command_cuts_a_round(host):
    move = Move(host, SLOW, "--precopy", "--max-bandwidth", "8M")
    control = move.control()
    control.wait_for("active")
    for _ in range(3):
        assert control.execute("migrate-start-postcopy") == {}
    giver, _ = move.completes()
    assert giver["precopy"]["ended_because"] == "postcopy was asked for"
    assert giver["precopy"]["moved_bytes"] < MEM // 2, giver


def postcopy_comes_when_its_time_has(host):
    giver, _ = Move(host, FAST, "--precopy", "--max-bandwidth", "8M", "--postcopy-after", 2).completes()
    assert giver["precopy"]["ended_because"] == "postcopy was asked for"


def the_limit_changes_while_a_round_is_under_way(host):
    move = Move(host, IDLE, "--precopy", "--max-bandwidth", "4M")
    control = move.control()
    control.wait_for("active")
    assert control.execute("query-migrate-parameters")["max-bandwidth"] == 4 * M
    control.execute("migrate-set-parameters", **{"max-bandwidth": 0})
    giver, _ = move.completes()
    assert giver["precopy"]["rate_bytes_per_s"] > 5 * M, giver


def cancelling_in_a_round_leaves_the_guest_running(host):
    move = Move(host, FAST, "--precopy", "--max-bandwidth", "8M")
    control = move.control()
    control.wait_for("active")
    assert control.execute("migrate_cancel") == {}
    move.stays(3)


def an_agent_that_is_killed_in_a_round_leaves_the_guest_running(host):
    move = Move(host, FAST, "--precopy", "--max-bandwidth", "8M")
    control = move.control()
    control.wait_for("active")
    move.giver.kill()
    move.giver.wait()
    assert finish(move.taker)[0] != 0
    assert_runs(move.source)
    assert move.source.errors() == 0
    assert_whole(host, move.source)


def a_destination_that_copies_is_refused(host):
    move = Move(host, SLOW, "--precopy", taker_options=("--placement", "copy"))
    assert "shared memory" in move.stays(1)


def precopy_without_attach_is_refused(host):
    code, said = finish(host.start(host.hugeferry, "send", "--vm", "qmp:/none", "--to", "unix:/none", "--precopy"))
    assert code == 2, (code, said)
    one_line(said, "--attach")


CASES = [
    a_guest_that_only_reads_is_moved_before_it_stops,
    a_guest_that_writes_slowly_is_moved,
    a_guest_that_writes_fast_ends_in_postcopy,
    without_postcopy_no_page_is_missing_when_it_runs,
    without_postcopy_a_writer_that_is_too_fast_goes_on_until_the_limit_is_raised,
    without_postcopy_time_runs_out_and_the_guest_stays,
    postcopy_on_command_cuts_a_round,
    postcopy_comes_when_its_time_has,
    the_limit_changes_while_a_round_is_under_way,
    cancelling_in_a_round_leaves_the_guest_running,
    an_agent_that_is_killed_in_a_round_leaves_the_guest_running,
    a_destination_that_copies_is_refused,
    precopy_without_attach_is_refused,
]
