# SPDX-License-Identifier: Apache-2.0
"""hugeferry-perf beside perftest, on the same device, in turns. That both run, and that hugeferry-perf says what it should,
is tested; the ratio is printed for who wants to read it. perftest's own programs may fail here (ib_read_lat does so now
and then): then their figure is missing, and nothing else."""
import itertools
import json
import os
import statistics

from host import finish, listening_uri, out_of
from machine import ADDRESS, address, wait_listens

PAGE = 2 << 20
ROUNDS = 3
TESTS = {
    # test, pages, its figure in the JSON, and where perftest's line has it
    "lat": (20, "t_typical", 4),
    "bw": (60, "BW_average", 3),
}


def ours(host, test, pages):
    """The figures of hugeferry-perf, with perftest's options."""
    perf, report = os.path.join(host.build, "perf/hugeferry-perf"), host.name("report")
    common = ("--test", test, "-s", PAGE, "-n", pages, "-q", 1, "-F", "-R", "--out_json_file", report)
    server = host.start(perf, "server", address("rdma"), *common)
    client = host.start(perf, "client", listening_uri(server))
    for process in (client, server):
        code, said = finish(process, 90)
        assert code == 0, (test, code, said)
    with open(report, encoding="utf-8") as file:
        found = json.load(file)
    assert found["test_info"]["transport"] == "rdma" and found["test_info"]["channels"] == 1, found
    assert len(found["results"]) == 1 and found["results"][0]["MsgSize"] == PAGE, found
    assert found["results"][0]["n_iterations"] >= pages, found
    return found["results"][0]


def theirs(host, test, pages, column):
    """Of ib_read_lat or ib_read_bw; None if it has failed."""
    command = (f"ib_read_{test}", "-R", "-F", "-s", PAGE, "-n", pages)
    both = [host.start(*command)]
    try:
        wait_listens(both[0], command[0])
        both.append(host.start(*command, ADDRESS))
        codes = [finish(process, 60)[0] for process in reversed(both)]
    except AssertionError:  # one of the two has failed, or waits for the other
        return None
    finally:
        for process in both:
            host.end_process(process)
    lines = [line.split() for line in out_of(both[1]).splitlines()]
    return next((float(line[column]) for line in lines if line[:1] == [str(PAGE)]), None) if codes == [0, 0] else None


def fetches_stand_beside_perftest(test):
    pages, figure, column = TESTS[test]

    def case(host):
        ratios = []
        for turn in range(ROUNDS):
            found = {}
            for who in itertools.islice(itertools.cycle(("ours", "theirs")), turn % 2, turn % 2 + 2):
                found[who] = ours(host, test, pages) if who == "ours" else theirs(host, test, pages, column)
            assert found["ours"][figure] > 0, found
            if found["theirs"]:
                ratios.append(found["ours"][figure] / found["theirs"])
        if ratios:
            print(f"# {figure} of {PAGE >> 20} MiB by that of ib_read_{test}: {statistics.median(ratios):.2f} "
                  f"({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} rounds)")
    case.__name__ = f"fetches_stand_beside_perftest_{test}"
    return case


CASES = [fetches_stand_beside_perftest(test) for test in TESTS]
