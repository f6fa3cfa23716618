/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hugepool.h - huge pages, strictly.
 *
 * Purpose: finds mounts, counts free pages, reserves missing ones, makes RAM files and staging
 * memory of huge pages. Never falls back to small pages: what cannot be had in the asked size is an error
 * that says how many pages of which size are missing and how to get them. On libhugetlbfs.
 *
 * Ownership: as said at each function.
 * Threads: no shared state of its own; the host's page counters are global, so a count is a hint and only a
 * successful mapping is a promise.
 * Units: bytes, pages of the named size.
 * Errors: 0 or -errno with text; -ENOMEM: too few huge pages; -ENODEV: this page size is not offered by the
 * kernel.
 */
#ifndef HF_HUGEMEM_HUGEPOOL_H
#define HF_HUGEMEM_HUGEPOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"

#define HF_NUMA_NODES_MAX 64

struct hf_hugepage_counts {
	uint64_t total, free, reserved, surplus; /* pages, whole host */
	uint32_t nodes;				 /* entries in node_* below */
	int node_id[HF_NUMA_NODES_MAX];
	uint64_t node_total[HF_NUMA_NODES_MAX], node_free[HF_NUMA_NODES_MAX];
};

/* Page sizes this kernel offers, ascending; returns how many (at most max) or -errno. */
int hf_hugepage_sizes(uint64_t *page_sizes_bytes, int max);
bool hf_hugepage_size_is_offered(uint64_t page_size_bytes);
int hf_hugepage_counts(uint64_t page_size_bytes, struct hf_hugepage_counts *out, struct hf_err *err);
/* Free pages nobody has reserved. */
static inline uint64_t hf_hugepages_available(const struct hf_hugepage_counts *counts)
{
	return counts->free > counts->reserved ? counts->free - counts->reserved : 0;
}
/* 0 if `pages` are available now, else -ENOMEM naming how many are missing and the command that adds them. */
int hf_hugepages_require(uint64_t page_size_bytes, uint64_t pages, struct hf_err *err);
/*
 * Raises the host's pool until `pages` are available; *added says by how many, with pages in use beyond the
 * pool, which count from then on (also on failure, when what was added has been given back and *added is 0).
 */
int hf_hugepages_reserve(uint64_t page_size_bytes, uint64_t pages, uint64_t *added, struct hf_err *err);
/* Lowers the pool by pages an earlier reserve added. */
int hf_hugepages_give_back(uint64_t page_size_bytes, uint64_t added, struct hf_err *err);

/* A mount point of hugetlbfs for this page size; -ENOENT with the mount command if there is none. */
int hf_hugetlbfs_mount_point(uint64_t page_size_bytes, char *path, size_t path_bytes, struct hf_err *err);

/*
 * A RAM block's file: created (O_EXCL) at path on hugetlbfs, of exactly length_bytes, mapped shared. Every
 * page is reserved by the mapping, or the call fails. The file must be on hugetlbfs of page_size_bytes.
 */
struct hf_ram_file {
	int fd;
	void *address;
	uint64_t length_bytes, page_size_bytes;
	char path[256]; /* "" once unlinked */
};
int hf_ram_file_create(struct hf_ram_file *file, const char *path, uint64_t length_bytes,
		       uint64_t page_size_bytes, struct hf_err *err);
/* Unmaps, closes, unlinks. A zeroed struct is fine. */
void hf_ram_file_destroy(struct hf_ram_file *file);

/* Page size of the hugetlbfs an open file is on; -EMEDIUMTYPE when it is not hugetlbfs. */
int hf_hugetlbfs_page_size(int fd, uint64_t *page_size_bytes, struct hf_err *err);

/* Private huge-page memory for staging, all pages present; free with munmap. */
int hf_hugepages_map(uint64_t page_size_bytes, uint64_t pages, void **address, struct hf_err *err);

#endif
