# SPDX-License-Identifier: Apache-2.0
"""Moves that must succeed: every combination, every byte checked and compared."""
import json
import os
import signal

from host import G, M, Vmm, err_of, finish, listening_uri, one_line, out_of, receive, send, wait_until


def demo(host, *arguments):
    path = host.name("json")
    process = host.start(host.hugeferry, "demo", "--compare", "--json", path, *arguments)
    code, said = finish(process, 300)
    assert code == 0, f"exit code {code}: {said}"
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def check_report(report, vcpus, mem=2 * G, page_size=2 * M):
    assert report["status"] == "completed" and report["verified"] is True and report["error"] is None
    assert report["page_size_bytes"] == page_size
    assert report["pages_total"] == mem // page_size
    assert report["pages_fetched"] + report["pages_zero"] == report["pages_total"]
    assert report["transferred_bytes"] <= report["pages_fetched"] * page_size
    assert report["guest"]["bytes_checked"] == mem and report["guest"]["bytes_wrong"] == 0
    assert report["guest"]["guest_errors"] == 0
    assert report["compare"]["bytes_compared"] == mem and report["compare"]["words_different"] == 0
    assert 0 < report["downtime_ns"] < report["total_time_ns"]
    check_blocktime(report, vcpus)


def check_blocktime(report, vcpus):
    times = [vcpu["blocktime_ns"] for vcpu in report["blocktime"]["vcpus"]]
    assert len(times) == vcpus
    assert report["faults"]["vcpu"] == sum(v["faults"] for v in report["blocktime"]["vcpus"])
    assert report["faults"]["vcpu"] > 0 and sum(times) > 0
    assert report["blocktime"]["overlapped_ns"] <= min(times)
    if vcpus == 1:
        assert report["blocktime"]["overlapped_ns"] == times[0]
    latency = report["fault_latency"]
    assert sum(bucket["count"] for bucket in latency["buckets"]) == latency["count"] > 0
    assert latency["p50_ns"] <= latency["p99_ns"] <= latency["p999_ns"] <= latency["max_ns"]


def combination(transport, placement, vcpus, pattern, writes):
    def case(host):
        report = demo(host, "--transport", transport, "--placement", placement, "--vcpus", vcpus,
                      "--pattern", pattern, "--write-share", writes)
        check_report(report, vcpus)
        assert report["transport"] == transport and report["placement"] == placement
    case.__name__ = f"every_byte_arrives_over_{transport}_by_{placement}_with_{vcpus}_vcpus_{pattern}"
    return case


def auto_takes_continue_and_says_why(host):
    report = demo(host, "--mem", "512M")
    check_report(report, 2, mem=512 * M)
    assert report["placement"] == "continue" and report["placement_reason"]


def demand_only(placement):
    def case(host):
        report = demo(host, "--placement", placement, "--no-background", "--demand-only-seconds", 1,
                      "--pattern", "sequential", "--vcpus", 2)
        check_report(report, 2)
        assert report["faults"]["vcpu"] > 100, report["faults"]
        # Before the background starts, after a second, a page can only have come by a fault.
        if report["postcopy_time_ns"] < 900_000_000:
            assert report["faults"]["vcpu"] + report["faults"]["other"] >= report["pages_fetched"]
    case.__name__ = f"a_vm_runs_on_faults_alone_until_the_background_starts_by_{placement}"
    return case


def holes(placement):
    def case(host):
        check_report(demo(host, "--mem", "256M", "--placement", placement, "--fill", 40), 2, mem=256 * M)
        # None is filled before it is moved, however fast the guest.
        report = demo(host, "--placement", placement, "--fill", 40, "--write-share", 0)
        check_report(report, 2)
        assert report["pages_zero"] > 500, report["pages_zero"]
        assert report["transferred_bytes"] < 1024 * M
    case.__name__ = f"holes_arrive_as_zeros_without_bytes_by_{placement}"
    return case


def gigantic(placement):
    """A guest needs two pages at least; `copy` needs two more for staging."""
    def case(host):
        host.need(G, 6 if placement == "copy" else 4)
        report = demo(host, "--mem", 2 * G, "--page-size", "1G", "--placement", placement)
        check_report(report, 2, page_size=G)
    case.__name__ = f"pages_of_1_gib_arrive_by_{placement}"
    return case


def one_channel_and_small_chunks_are_enough(host):
    check_report(demo(host, "--mem", "512M", "--channels", 1, "--chunk-size", "64K"), 2, mem=512 * M)


def eight_channels_and_whole_page_chunks_work(host):
    check_report(demo(host, "--mem", "512M", "--channels", 8, "--chunk-size", "2M"), 2, mem=512 * M)


def move(host, mem, *send_options, signal_send=None):
    """Moves a VM with options of `send` alone; returns the destination's report."""
    host.need(2 * M, 2 * mem // (2 * M) + 64)
    source, destination = Vmm(host, mem=mem), Vmm(host, incoming=True, mem=mem)
    path = host.name("json")
    taker = receive(host, destination, "--json", path)
    giver = send(host, source, listening_uri(taker), *send_options)
    if signal_send:
        wait_until(lambda: destination.status() == "running", "the destination runs")
        giver.send_signal(signal_send)
    assert finish(giver)[0] == 0 and finish(taker)[0] == 0, (err_of(giver), err_of(taker))
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def the_source_may_ask_for_the_placement(host):
    report = move(host, 256 * M, "--placement", "copy")
    assert report["placement"] == "copy" and report["status"] == "completed"


def the_source_may_hold_the_background_and_every_page_comes_by_a_fault(host):
    report = move(host, 256 * M, "--no-background")
    assert report["faults"]["vcpu"] + report["faults"]["other"] >= report["pages_fetched"], report["faults"]


def the_source_may_let_the_background_go_on(host):
    report = move(host, 2 * G, "--no-background", signal_send=signal.SIGUSR1)
    assert report["faults"]["vcpu"] < report["pages_fetched"], report["faults"]


def small(transport, placement):
    """What an instrumented build is slow and large enough for."""
    def case(host):
        report = demo(host, "--mem", "128M", "--transport", transport, "--placement", placement)
        check_report(report, 2, mem=128 * M)
    case.__name__ = f"a_small_vm_arrives_over_{transport}_by_{placement}"
    return case


def demo_folders():
    return {name for name in os.listdir("/tmp") if name.startswith("hugeferry-demo-")}


def a_demo_gives_back_all_it_took(host):
    before, folders = host.read_counter(2 * M, "nr_hugepages"), demo_folders()
    process = host.start(host.hugeferry, "demo", "--mem", "256M", "--keep-going-seconds", 0)
    code, said = finish(process)
    assert code == 0, said
    assert host.read_counter(2 * M, "nr_hugepages") == before
    assert demo_folders() == folders


def a_demo_that_cannot_have_its_memory_takes_nothing(host):
    before = host.read_counter(2 * M, "nr_hugepages")
    code, said = finish(host.start(host.hugeferry, "demo", "--mem", "4T"))
    assert code == 1
    one_line(said, "2 MiB", "--mem")
    assert host.read_counter(2 * M, "nr_hugepages") == before


def a_demo_that_is_stopped_gives_back_all_it_took(host):
    before, folders = host.read_counter(2 * M, "nr_hugepages"), demo_folders()
    for stage in ("starting", "moving it"):
        process = host.start(host.hugeferry, "demo", "--mem", "512M", "--no-background",
                             "--demand-only-seconds", 600)
        wait_until(lambda: stage in out_of(process), stage)
        process.terminate()
        code, said = finish(process)
        assert code == 3 and "cancelled by SIGTERM" in said, (code, err_of(process))
        assert host.read_counter(2 * M, "nr_hugepages") == before
        assert demo_folders() == folders


def a_demo_that_is_killed_leaves_nothing(host):
    before, folders = host.read_counter(2 * M, "nr_hugepages"), demo_folders()
    for stage in ("starting", "moving it"):
        process = host.start(host.hugeferry, "demo", "--mem", "512M", "--no-background",
                             "--demand-only-seconds", 600)
        wait_until(lambda: stage in out_of(process), stage)
        assert host.read_counter(2 * M, "nr_hugepages") > before
        process.kill()
        process.wait()
        wait_until(lambda: host.read_counter(2 * M, "nr_hugepages") == before, "the pool is as it was", 30)
        wait_until(lambda: demo_folders() == folders, "its folder is gone", 30)


CASES = [
    gigantic("copy"),  # first, while the host's memory is in large pieces
    gigantic("continue"),
    combination("tcp", "copy", 1, "random", 30),
    combination("tcp", "copy", 2, "hot", 60),
    combination("tcp", "copy", 8, "sequential", 30),
    combination("tcp", "continue", 1, "sequential", 60),
    combination("tcp", "continue", 2, "random", 100),
    combination("tcp", "continue", 8, "hot", 30),
    combination("unix", "copy", 1, "hot", 100),
    combination("unix", "copy", 2, "sequential", 30),
    combination("unix", "copy", 8, "random", 60),
    combination("unix", "continue", 1, "random", 0),
    combination("unix", "continue", 2, "hot", 30),
    combination("unix", "continue", 8, "random", 60),
    small("tcp", "continue"),
    small("tcp", "copy"),
    small("unix", "continue"),
    small("unix", "copy"),
    auto_takes_continue_and_says_why,
    demand_only("copy"),
    demand_only("continue"),
    holes("copy"),
    holes("continue"),
    one_channel_and_small_chunks_are_enough,
    eight_channels_and_whole_page_chunks_work,
    the_source_may_ask_for_the_placement,
    the_source_may_hold_the_background_and_every_page_comes_by_a_fault,
    the_source_may_let_the_background_go_on,
    a_demo_gives_back_all_it_took,
    a_demo_that_cannot_have_its_memory_takes_nothing,
    a_demo_that_is_stopped_gives_back_all_it_took,
    a_demo_that_is_killed_leaves_nothing,
]
