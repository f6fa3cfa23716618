# SPDX-License-Identifier: Apache-2.0
"""Memory that does not fit, in every way: one clear line on each side it concerns, and nothing stops."""
import contextlib

from fake_vmm import Block, FakeVmm
from host import G, M, err_of, finish, listening_uri, one_line, receive, send

NO_MOVE = {"stop", "migrate", "migrate-incoming", "cont", "quit"}
TO_NOBODY = "tcp:127.0.0.1:9"


@contextlib.contextmanager
def fake(host, status, *blocks, **options):
    vmm = FakeVmm(host, status, blocks, **options)
    with contextlib.closing(vmm):
        yield vmm
        assert not NO_MOVE.intersection(vmm.asked), vmm.asked


def refused(process, *parts):
    code, said = finish(process)
    assert code == 1, (code, said)
    # A page of 1 GiB is slow over any link, which is warned of before.
    said = "".join(line for line in said.splitlines(True) if ": warning: a thread that needs a page" not in line)
    one_line(said, *parts)
    return said


def both_refuse(host, source_blocks, destination_blocks, *parts, give=(), take=(), **destination_options):
    with fake(host, "running", *source_blocks) as source, \
         fake(host, "inmigrate", *destination_blocks, **destination_options) as destination:
        taker = receive(host, destination, *take)
        giver = send(host, source, listening_uri(taker), *give)
        assert "the source VM runs on" in refused(giver, *parts)
        assert "untouched and still in inmigrate" in refused(taker, *parts)


def blocks_of_other_pages_are_all_named_on_both_sides(host):
    host.need_size(G)
    both_refuse(host, [Block("ram0", G), Block("ram1", G)], [Block("ram1", G, G), Block("ram0", G, G)],
                "block 'ram0': page size is 2 MiB on the source and 1 GiB on the destination",
                "block 'ram1': page size is 2 MiB on the source and 1 GiB on the destination")


def blocks_of_other_lengths_are_all_named_on_both_sides(host):
    both_refuse(host, [Block("ram0", 16 * M), Block("ram1", 32 * M)], [Block("ram0", 32 * M), Block("ram1", 16 * M)],
                "block 'ram0': length is 16 MiB on the source and 32 MiB on the destination",
                "block 'ram1': length is 32 MiB on the source and 16 MiB on the destination")


def blocks_that_one_side_lacks_are_named_on_both_sides(host):
    both_refuse(host, [Block("ram0"), Block("more")], [Block("ram0")],
                "block 'more': exists on the source and not on the destination")
    both_refuse(host, [Block("ram0")], [Block("ram0"), Block("more")],
                "block 'more': exists on the destination and not on the source")
    both_refuse(host, [Block("ram0"), Block("old")], [Block("ram0"), Block("new")],
                "block 'old': exists on the source", "block 'new': exists on the destination")


def a_feature_the_vmm_lacks_is_named_on_both_sides(host):
    host.need(2 * M, 8)
    lacks = {"class": "unsupported", "desc": "this kernel's userfaultfd lacks: minor-hugetlbfs"}
    both_refuse(host, [Block("ram0")], [Block("ram0")], "minor-hugetlbfs", userfault=lacks)


def too_few_huge_pages_are_counted(host):
    host.need(2 * M, 5)
    both_refuse(host, [Block("ram0", 64 * M)], [Block("ram0", 64 * M)], "'ram0'",
                "27 huge pages of 2 MiB are missing (32 needed, 5 available)", "hugepages-2048kB/nr_hugepages")


def too_few_huge_pages_of_1_gib_are_counted_as_such(host):
    host.need_size(G)
    host.need(2 * M, 8)
    missing = 3 - host.available(G)
    both_refuse(host, [Block("small"), Block("large", 3 * G, G)], [Block("small"), Block("large", 3 * G, G)],
                "'large'", f"{missing} huge pages of 1 GiB are missing", "hugepages-1048576kB/nr_hugepages")


def private_memory_cannot_be_continued(host):
    asked = "--placement", "continue"
    private = Block("ram0", private=True, path="")
    both_refuse(host, [Block("ram0")], [private], "placement continue", "'ram0' is private", give=asked)
    with fake(host, "inmigrate", Block("ram0", private=True, path="")) as destination:
        refused(receive(host, destination, *asked), "placement continue", "'ram0' is private")


def memory_a_source_cannot_give_is_refused(host):
    """Before the destination is asked: there is one line only, and a destination waits on."""
    for block, *parts in (
            (Block("ram0", path=host.name("file")), "'ram0'", "RAM file", "not on hugetlbfs"),
            (Block("ram0", private=True, path=""), "'ram0'", "no file", "share=on"),
            (Block("ram0", private=True), "'ram0'", "privately", "share=on"),
            (Block("ram0", mapped=False), "'ram0'", "has not mapped"),
            (Block("ram0", said_length=3 * M), "'ram0'", "3 MiB", "2 MiB"),
            (Block("ram0", said_length=64 * M), "'ram0'", "64 MiB", "16 MiB")):
        with fake(host, "running", block) as source:
            refused(send(host, source, TO_NOBODY), source.qmp_path, *parts)


def memory_a_destination_cannot_take_is_refused(host):
    """Before it listens, so a source is not even asked to connect."""
    for blocks, *parts in (
            ([Block("ram0", path=host.name("file"))], "'ram0'", "hugetlbfs"),
            ([Block("ram0", said_page_size=4096)], "'ram0'", "no huge pages"),
            *([([Block("ram0", G, G, said_page_size=2 * M)], "'ram0'", "1 GiB", "2 MiB")] if host.offers(G) else []),
            ([Block("ram0", said_length=3 * M)], "'ram0'", "3 MiB", "2 MiB"),
            ([Block("ram0", said_length=64 * M)], "'ram0'", "64 MiB", "16 MiB"),
            ([Block("ram0"), Block("ram1", private=True, path="")], "'ram0' is shared", "'ram1' is private")):
        with fake(host, "inmigrate", *blocks) as destination:
            taker = receive(host, destination)
            refused(taker, "fake", *parts)
            assert "listening" not in err_of(taker)


CASES = [
    blocks_of_other_pages_are_all_named_on_both_sides,
    blocks_of_other_lengths_are_all_named_on_both_sides,
    blocks_that_one_side_lacks_are_named_on_both_sides,
    a_feature_the_vmm_lacks_is_named_on_both_sides,
    too_few_huge_pages_are_counted,
    too_few_huge_pages_of_1_gib_are_counted_as_such,
    private_memory_cannot_be_continued,
    memory_a_source_cannot_give_is_refused,
    memory_a_destination_cannot_take_is_refused,
]
