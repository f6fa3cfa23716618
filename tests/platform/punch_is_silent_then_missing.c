/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a hole punched through the file's descriptor raises no event, even where events are asked for; the
 * next touch is a MISSING fault on a page that was placed long ago. MADV_REMOVE by the VMM does raise its
 * event.
 *
 * Kernel: 4.11 (EVENT_REMOVE).
 *
 * Relied on by: hugemem/placer.c (place again), core/destination_pages.c (a fault on a received page).
 */
#include <sys/mman.h>

#include "tests/platform/platform.h"

static void *remove_page(void *opaque)
{
	const struct ram *ram = opaque;

	must(madvise(ram->vmm, ram->page_bytes, MADV_REMOVE) == 0);
	return NULL;
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);
	int uffd = uffd_of(&ram, BOTH_FAULTS | UFFD_FEATURE_EVENT_REMOVE, BOTH);
	uint8_t *content = content_new(page_bytes, 1, 9);
	struct toucher toucher;
	pthread_t thread;

	must(page_copy(uffd, &ram, 0, content) == 0);
	expect(ram.vmm[0] == 9 && uffd_is_silent(uffd), "a page that was placed faults");
	ram_punch(&ram, 0);
	expect(uffd_is_silent(uffd), "a hole punched through the descriptor raises an event");
	toucher_start(&toucher, ram.vmm, false);
	struct uffd_msg message = uffd_next(uffd, "a punched page");
	expect_fault(&message, &ram, 0, MISSING_KIND);
	must(page_copy(uffd, &ram, 0, content) == 0);
	must(toucher_end(&toucher) == 9);

	/* The opposite. */
	must(pthread_create(&thread, NULL, remove_page, &ram) == 0);
	message = uffd_next(uffd, "MADV_REMOVE");
	expect(message.event == UFFD_EVENT_REMOVE && message.arg.remove.start == (uintptr_t)ram.vmm,
	       "MADV_REMOVE raises event %u", message.event);
	must(pthread_join(thread, NULL) == 0);
	expect(ram_pages_held(&ram) == 0, "MADV_REMOVE leaves the page in the file");
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "a punched hole raises no event; the next touch is MISSING",
				    .show = show,
				    .pages = 1,
				    .giant_pages = 1,
				    .features = BOTH_FAULTS | UFFD_FEATURE_EVENT_REMOVE});
}
