# SPDX-License-Identifier: Apache-2.0
"""Pages of 1 GiB, over any kind of address."""
from host import G, Vmm
from machine import SCHEMES, address, over
from refusals import refused_by_both
from whole_moves import arrives

PAGES = 4  # that the VM of the testbed has from its start: for two VMs of two pages each


def has_its_pages(host):
    """Nothing takes any away, so that none is missing when it is wanted again."""
    assert host.available(G) == PAGES, f"{host.available(G)} pages of 1 GiB are free"


def page_sizes_that_differ_are_refused(scheme):
    def case(host):
        host.listen = address(scheme)
        has_its_pages(host)
        host.need(2 << 20, 520)
        refused_by_both(host, Vmm(host, mem=G), Vmm(host, incoming=True, mem=G, page_size=G), "ram0", "2 MiB", "1 GiB")
    return case


def a_vm_of_1_gib_pages_arrives_whole(scheme):
    def case(host):
        has_its_pages(host)
        arrives(host, Vmm(host, mem=2 * G, page_size=G), Vmm(host, incoming=True, mem=2 * G, page_size=G), scheme)
    return case


CASES = [
    *over(SCHEMES, page_sizes_that_differ_are_refused),
    *over(SCHEMES, a_vm_of_1_gib_pages_arrives_whole),
]
