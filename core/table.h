/* SPDX-License-Identifier: Apache-2.0 */
/*
 * table.h - where an engine keeps what it needs to serve a fault.
 *
 * Purpose: the program keeps these in memory (mlock), so that no fault waits for an agent that is itself
 * paged out. core only says where they are.
 *
 * Ownership: the ranges stay the engine's; they neither move nor end before it is destroyed.
 * Threads: none inside.
 * Units: bytes.
 * Errors: none; more tables than there is room for is a programming error (assert).
 */
#ifndef HF_CORE_TABLE_H
#define HF_CORE_TABLE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define HF_TABLES_MAX 24u

struct hf_table {
	const void *address;
	size_t bytes;
};

struct hf_tables {
	struct hf_table list[HF_TABLES_MAX];
	uint32_t count;
};

static inline void hf_tables_add(struct hf_tables *tables, const void *address, size_t bytes)
{
	if (!address || bytes == 0)
		return;
	assert(tables->count < HF_TABLES_MAX);
	tables->list[tables->count++] = (struct hf_table){.address = address, .bytes = bytes};
}

#endif
