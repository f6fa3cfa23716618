/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: mlock() of each table, never mlockall(): that would also make every page of the guest
 * memory this process has mapped. The kernel locks whole pages; tables that share one are counted twice, so
 * the number an operator is told is enough, if a few KiB too high.
 */
#include "hugemem/memory_lock.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "hugemem/probe.h"

static uint64_t whole_pages_bytes(const struct hf_table *table)
{
	uintptr_t page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t first = (uintptr_t)table->address & ~(page_bytes - 1);
	uintptr_t end = ((uintptr_t)table->address + table->bytes + page_bytes - 1) & ~(page_bytes - 1);

	return end - first;
}

static uint64_t all_bytes(const struct hf_tables *tables)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < tables->count; i++)
		sum += whole_pages_bytes(&tables->list[i]);
	return sum;
}

static int refuse(const struct hf_tables *tables, int errnum, struct hf_err *err)
{
	struct rlimit limit = {.rlim_cur = RLIM_INFINITY};
	uint64_t needed_kib = all_bytes(tables) >> 10;

	getrlimit(RLIMIT_MEMLOCK, &limit);
	if (limit.rlim_cur == RLIM_INFINITY || hf_probe_ipc_lock())
		return hf_err_set(err, HF_ERR_LOCAL, errnum,
				  "%" PRIu64
				  " KiB of this program's own tables cannot be kept in memory: %s; "
				  "the host is out of memory: free some",
				  needed_kib, strerror(errnum));
	return hf_err_set(err, HF_ERR_LOCAL, errnum,
			  "%" PRIu64 " KiB of this program's own tables must be kept in memory, so that no "
			  "page waits for them, but its memory lock limit is %" PRIu64
			  " KiB; " HF_MEMORY_LOCK_ADVICE,
			  needed_kib, (uint64_t)limit.rlim_cur >> 10);
}

int hf_memory_lock(const struct hf_tables *tables, struct hf_err *err)
{
	for (uint32_t i = 0; i < tables->count; i++) {
		if (mlock(tables->list[i].address, tables->list[i].bytes) == 0)
			continue;
		int errnum = errno;
		while (i-- > 0)
			munlock(tables->list[i].address, tables->list[i].bytes);
		return refuse(tables, errnum, err);
	}
	return 0;
}
