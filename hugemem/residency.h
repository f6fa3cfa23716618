/* SPDX-License-Identifier: Apache-2.0 */
/*
 * residency.h - which pages exist, found out without touching any.
 *
 * Purpose: a touched hole allocates a huge page, so presence is read from the outside: from the page
 * cache of a hugetlbfs file, from another process's /proc/PID/smaps and /proc/PID/pagemap.
 *
 * Ownership: load and scan fill a struct that the caller frees; a zeroed struct may be freed.
 * Threads: none inside; every call stands alone.
 * Units: bytes, pages of the named size.
 * Errors: 0 or -errno; with text where an operator can act on it.
 */
#ifndef HF_HUGEMEM_RESIDENCY_H
#define HF_HUGEMEM_RESIDENCY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "core/err.h"

/* ---- a process's mappings ---- */

struct hf_vmm_mapping {
	uint64_t start, end;
	uint64_t offset_bytes;
	dev_t device;
	ino_t inode;
	uint64_t page_size_bytes; /* of the memory behind it */
	bool shared, writable;
	bool waits_for_pages; /* registered with a userfaultfd for missing or minor faults, ... */
	bool missing_faults, minor_faults; /* ... namely for these */
	bool tracks_writes;		   /* registered with one for write protection */
};

struct hf_vmm_mappings {
	struct hf_vmm_mapping *list;
	size_t count;
};

int hf_vmm_mappings_load(pid_t pid, struct hf_vmm_mappings *out, struct hf_err *err);
void hf_vmm_mappings_free(struct hf_vmm_mappings *mappings);
/* Is this a mapping of that file? */
bool hf_vmm_mapping_is_of(const struct hf_vmm_mapping *mapping, const struct stat *file);

/*
 * Has any process but this one and the VMM the file mapped, or may it have? 1 or 0; one look at every process
 * there is.
 */
int hf_file_mapped_by_others(const struct stat *file, pid_t vmm_pid);
/* -EBUSY with its pid and name: one that may be looked into has it mapped to write to it. */
int hf_file_check_unshared(int fd, pid_t vmm_pid, struct hf_err *err);

/* A descriptor that stays bound to the process as it is now, also when its pid is taken by another. */
int hf_vmm_pagemap_open(pid_t pid, int *pagemap_fd, struct hf_err *err);
/*
 * Has the process a page at this address? 1 or 0. A huge page that the kernel moves just now counts as
 * absent. -ESRCH: the process has exited.
 */
int hf_vmm_page_mapped(int pagemap_fd, uint64_t address);
/*
 * Calls found() for each run of pages that the process has in this range of huge pages, ascending. One system
 * call for many pages where the kernel has PAGEMAP_SCAN (6.7), one for each page elsewhere. A process that
 * has exited has no pages.
 */
int hf_vmm_pages_mapped(int pagemap_fd, uint64_t start, uint64_t end, uint64_t page_size_bytes,
			void (*found)(void *opaque, uint64_t start, uint64_t end), void *opaque);

/* ---- a file's pages ---- */

struct hf_file_pages {
	uint8_t *bits;	    /* one a page, least significant first */
	uint64_t pages;	    /* in the file */
	uint64_t present;   /* bits set */
	uint64_t accounted; /* that the file system says it holds; more than `present`: some were not found */
};

/* How many pages the file system says the file holds. */
int hf_file_pages_accounted(int fd, uint64_t page_size_bytes, uint64_t *pages);
/* Pages of a hugetlbfs file that its page cache holds; allocates none. About a microsecond a page. */
int hf_file_pages_scan(int fd, uint64_t page_size_bytes, struct hf_file_pages *out, struct hf_err *err);
void hf_file_pages_free(struct hf_file_pages *pages);
bool hf_file_page_present(const struct hf_file_pages *pages, uint64_t page);

#endif
