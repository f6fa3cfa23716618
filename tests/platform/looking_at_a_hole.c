/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: reading a hole of the file through any mapping makes a page of zeros; pagemap, mincore() and read()
 * of the file do not. SEEK_DATA is no way to look: it takes all of the file for data.
 *
 * Kernel: 2.6.
 *
 * Relied on by: hugemem/residency.c, hugemem/outgoing_memory.c (holes of the source are never touched).
 */
#include <sys/mman.h>
#include <unistd.h>

#include "tests/platform/platform.h"

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);
	unsigned char in_memory = 1;
	uint8_t byte = 1;

	expect(!page_is_mapped(0, ram.alias), "pagemap shows a hole as mapped");
	expect(mincore(ram.alias, 1, &in_memory) == 0 && !(in_memory & 1),
	       "mincore() shows a hole as present");
	expect(pread(ram.file, &byte, 1, 0) == 1 && byte == 0, "read() of a hole is not zeros");
	expect(lseek(ram.file, 0, SEEK_DATA) == 0,
	       "SEEK_DATA tells a hole: it could be used instead of mincore()");
	expect(ram_pages_held(&ram) == 0, "looking at a hole without touching it makes a page");
	/* The opposite. */
	expect(((volatile uint8_t *)ram.alias)[0] == 0, "a hole does not read as zeros");
	expect(ram_pages_held(&ram) == 1, "reading a hole through a mapping makes no page");
}

int main(void)
{
	return platform_run(&(struct platform_fact){
	    .claim = "reading a hole through a mapping makes a page, looking does not",
	    .show = show,
	    .pages = 1,
	    .giant_pages = 1});
}
