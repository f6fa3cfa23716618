/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach.h - the attach library: how a VMM lends its guest memory to Hugeferry. For VMM authors.
 *
 * Purpose: the VMM names its guest memory regions and gives a socket path. A Hugeferry agent connects to
 * it, asks for the regions (with the files behind them) and has userfaultfd made for given ranges, in
 * this process, on the mappings the guest uses. The library keeps its own copy of each userfaultfd: while the
 * VMM lives, a missing page stays missing even if the agent dies (it would read as zeros otherwise).
 * The hand-off protocol is in PROTOCOL.md, part "Attach"; its list of regions is a superset of what
 * Firecracker sends to its page fault handler.
 *
 * Ownership: the library duplicates the file descriptors it is given; the mappings stay the VMM's and must
 * outlive it.
 * Threads: one thread of its own (blocks on the socket). Functions may be called from one VMM thread at a
 * time. Units: bytes. Errors: 0 or -errno with text.
 *
 *     hf_attach_create(&attach, &options, &err);
 *     hf_attach_add(attach, &region, &err);        // for each RAM block, before start (or in more_regions)
 *     hf_attach_start(attach, &err);
 *     ...                                          // incoming: do not touch guest memory before
 *     hf_attach_wait_armed(attach, timeout_ms);    // ... faults are served
 *     hf_attach_destroy(attach);
 */
#ifndef HF_HUGEMEM_ATTACH_H
#define HF_HUGEMEM_ATTACH_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"

struct hf_attach;

struct hf_attach_options {
	const char *
	    socket_path; /* made by the library, mode 0600; a stale one is replaced, a live one is an error */
	const char *vm_name;
	/*
	 * NULL, or: called in the library's thread when an agent asks for the regions and none is registered.
	 * It may hf_attach_add() those that are new, at any time of the VMM's life.
	 */
	void (*more_regions)(struct hf_attach *attach, void *opaque);
	void *opaque;
};

struct hf_attach_region {
	const char *idstr; /* name of the RAM block, the same on both hosts */
	void *address;	   /* of the VMM's mapping */
	uint64_t length_bytes;
	uint64_t page_size_bytes; /* of the memory behind it */
	int fd;			  /* the file behind a shared mapping; -1 for private memory */
	uint64_t fd_offset_bytes;
};

int hf_attach_create(struct hf_attach **out, const struct hf_attach_options *options, struct hf_err *err);
/*
 * Checks everything against the kernel's view of the mapping (page size, file, offset, no gaps, readable and
 * writable) and sets MADV_DONTFORK. Memory of small pages is refused.
 */
int hf_attach_add(struct hf_attach *attach, const struct hf_attach_region *region, struct hf_err *err);
int hf_attach_start(struct hf_attach *attach, struct hf_err *err);
/*
 * Are all regions guarded now: missing faults of all, and minor faults of shared memory where the kernel has
 * them? Stays true when the agent dies; the pages it has not placed stay missing until the next one comes.
 */
bool hf_attach_armed(const struct hf_attach *attach);
/* Waits until armed; -ETIMEDOUT. */
int hf_attach_wait_armed(struct hf_attach *attach, uint32_t timeout_ms);
/*
 * Stops the thread, removes the socket, closes the library's copies. Pages still missing read as zeros from
 * then on unless an agent holds a userfaultfd. NULL is fine.
 */
void hf_attach_destroy(struct hf_attach *attach);

#endif
