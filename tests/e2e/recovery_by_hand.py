# SPDX-License-Identifier: Apache-2.0
"""Pauses and new links that an operator asks for over the control sockets."""
from control import Control, refusal
from host import err_of, free_port, wait_until
from recovering import Move

ROUNDS = 5
PAUSE = "postcopy-paused"
WAY_BACK = ["postcopy-paused", "postcopy-recover-setup", "postcopy-recover", "postcopy-active"]


def status(control):
    return control.execute("query-migrate")["status"]


def wait_status(control, wanted):
    wait_until(lambda: status(control) == wanted, f"{wanted}", 30)


def go_to(move, out, into, uri):
    """A new address: the destination listens there, the source is told so."""
    assert into.execute("migrate-recover", uri=uri) == {}
    assert out.execute("migrate", uri=uri, resume=True) == {}
    for control in (out, into):
        wait_until(lambda control=control: status(control) in ("postcopy-active", "completed"), "it goes on", 30)
    assert not move.ended(), [err_of(process) for process in move.programs.values()]


def since_first_pause(control):
    return control.statuses[control.statuses.index(PAUSE):]


def five_pauses_by_hand_and_five_new_addresses_lose_nothing(host):
    move = Move(host, control=True, receive_options=["--no-background"])
    move.begin_held()
    out, into = (Control(path) for path in move.paths)
    wait_status(into, "postcopy-active")
    port = free_port() + 1
    every_way_back = WAY_BACK * ROUNDS
    for number in range(ROUNDS):
        uri = f"unix:{host.name('again')}" if number % 2 else f"tcp:127.0.0.1:{port + number}"
        pauser = (out, into)[number % 2]
        assert pauser.execute("migrate-pause") == {}
        for control in (out, into):
            wait_until(lambda control=control: status(control) != "postcopy-active", "it is paused", 30)
        go_to(move, out, into, uri)
    for control in (out, into):
        wait_until(lambda control=control: status(control) and len(since_first_pause(control)) >= len(every_way_back),
                   "it is told of every recovery", 10)
        recovered = since_first_pause(control)
        assert recovered == every_way_back, recovered
    move.let_run()
    move.complete()


def wrong_commands_are_refused_with_a_reason(host):
    move = Move(host, control=True, receive_options=["--no-background"])
    move.begin_held()
    out, into = (Control(path) for path in move.paths)
    wait_status(into, "postcopy-active")
    wait_status(out, "postcopy-active")
    assert "only a paused migration" in refusal(into, "migrate-recover", uri=move.listen)[1]
    assert "only a paused migration" in refusal(out, "migrate", uri=move.relay.uri, resume=True)[1]
    assert refusal(out, "migrate-recover", uri=move.listen)[0] == "CommandNotFound"
    assert refusal(into, "migrate", uri=move.listen, resume=True)[0] == "CommandNotFound"
    assert out.execute("migrate-pause") == {}
    for control in (out, into):
        wait_until(lambda control=control: status(control) != "postcopy-active", "it is paused", 30)
    assert "http:" in refusal(out, "migrate", uri="http://nobody", resume=True)[1]
    assert "http:" in refusal(into, "migrate-recover", uri="http://nobody")[1]
    assert status(out).startswith("postcopy-") and status(into).startswith("postcopy-")
    go_to(move, out, into, f"unix:{host.name('again')}")
    move.let_run()
    move.complete()


CASES = [
    five_pauses_by_hand_and_five_new_addresses_lose_nothing,
    wrong_commands_are_refused_with_a_reason,
]
