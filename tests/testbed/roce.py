# SPDX-License-Identifier: Apache-2.0
"""The testbed's own ground: soft-RoCE works here, whatever the project makes of it."""
from host import finish, out_of
from machine import ADDRESS, said_by, wait_listens


def the_device_is_up_and_takes_large_packets(_):
    said = said_by("ibv_devinfo", "-d", "rxe0")
    assert "PORT_ACTIVE" in said and "InfiniBand" in said, said
    assert said.split("active_mtu:")[1].split()[0] == "4096", said


def served(host, *command):
    """A client against a server of the same program; both must be content. Returns what the client has said."""
    server = host.start(*command)
    wait_listens(server, command[0])
    client = host.start(*command, ADDRESS)
    for process in (client, server):
        code, said = finish(process, 60)
        assert code == 0, (command, code, said, out_of(process))
    return out_of(client)


def messages_go_there_and_back(host):
    common = ("-a", ADDRESS, "-C", 3, "-S", 4096, "-v")
    server = host.start("rping", "-s", *common)
    wait_listens(server, "rping")
    client = host.start("rping", "-c", *common)
    assert finish(client, 60)[0] == 0, out_of(client)
    assert out_of(client).count("ping data") == 3, out_of(client)


def whole_pages_are_read(host):
    said = served(host, "ib_read_bw", "-R", "-F", "-s", 2 << 20, "-n", 5)
    assert "2097152    5" in said, said


CASES = [
    the_device_is_up_and_takes_large_packets,
    messages_go_there_and_back,
    whole_pages_are_read,
]
