/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.h - ports: guest memory on the destination (landing, placing) and on the source (reading).
 *
 * Purpose: the destination's engine says which page lands where and when it becomes visible to the guest;
 * the port does the userfaultfd work. The source's engine asks where a chunk is and which pages exist.
 *
 * Ownership: `self` outlives the engine. Landing addresses stay valid until release().
 * Threads: called from any thread, without the engine's lock, several at once for different pages; never
 * twice at once for one page. No operation calls the engine (rule a); prepare() and kick() make
 * threads of the port call it later.
 * Units: pages are indexes in the block's own page size; lengths are bytes.
 * Errors: 0 or -errno.
 */
#ifndef HF_CORE_MEMORY_H
#define HF_CORE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"

enum hf_placement {
	HF_PLACEMENT_COPY = 0,	   /* land in a staging slot, then UFFDIO_COPY */
	HF_PLACEMENT_CONTINUE = 1, /* land in the alias, then UFFDIO_CONTINUE */
};

enum hf_work_class {
	HF_WORK_URGENT = 0, /* a thread waits: zero pages that faulted, faults on pages already received */
	HF_WORK_BACKGROUND = 1, /* holes that nobody waits for */
	HF_WORK_CLASSES = 2,
};

struct hf_memory;

struct hf_memory_ops {
	/*
	 * Before prepare(): the source's operator wishes another placement than the port has chosen. Changes
	 * placement and slots in *port, or says why that cannot be. Constant time.
	 */
	int (*choose)(void *self, enum hf_placement placement, struct hf_memory *port, struct hf_err *err);
	/*
	 * Makes the memory ready: registers userfaultfd with MISSING|MINOR, preallocates (continue) or makes
	 * staging slots (copy). Takes long; returns at once. A thread of the port calls
	 * hf_destination_memory_ready() when it is done or has failed.
	 */
	int (*prepare)(void *self);
	/*
	 * Where the bytes of a page land. For `continue` the page in the alias, slot is ignored; for
	 * `copy` staging slot number `slot`. Constant time.
	 */
	void *(*landing)(void *self, uint32_t block, uint64_t page, uint32_t slot);
	/*
	 * Makes a whole landed page visible and wakes everyone who waits for it. 0 only if the page is
	 * there. -EAGAIN: it could not be placed now (no huge page to be had); the fault is kept, try again.
	 */
	int (*place)(void *self, uint32_t block, uint64_t page, uint32_t slot, struct hf_err *err);
	/* Makes a page of zeros visible that never landed anywhere; same results as place(). */
	int (*place_zero)(void *self, uint32_t block, uint64_t page, struct hf_err *err);
	/*
	 * A fault on a page that was received: continue again, wake, or zeros where the VMM itself has
	 * discarded the page since. Same results as place().
	 */
	int (*place_again)(void *self, uint32_t block, uint64_t page, struct hf_err *err);
	/*
	 * Zeros part of a landing whose chunk came as a header only. `continue` landings start as zeros and
	 * are only cleared when `dirty` (something landed on that page before).
	 */
	void (*clear)(void *self, void *landing, size_t length_bytes, bool dirty);
	/*
	 * Can pages be poisoned? -EOPNOTSUPP with what is missing. Constant time.
	 */
	int (*may_poison)(void *self, struct hf_err *err);
	/*
	 * The page's bytes are lost for good: every access gets a memory error from here on, and who waits
	 * gets it now. Whatever part of the bytes has landed goes. Again for a page that is poisoned: who
	 * waits is woken. -EEXIST, without text: the VMM has the page, it is not lost and was left alone.
	 */
	int (*poison)(void *self, uint32_t block, uint64_t page, struct hf_err *err);
	/* Asks the port's worker thread of this class to call hf_destination_work() until it says idle. */
	void (*kick)(void *self, enum hf_work_class class);
	/* Every page is placed or poisoned: unregisters all ranges, which wakes whoever still waits. */
	int (*release)(void *self, struct hf_err *err);
};

struct hf_memory {
	const struct hf_memory_ops *ops;
	void *self;
	enum hf_placement placement;
	uint32_t slots; /* landings of `copy` that may be in use at once; 0 = no limit (`continue`) */
};

struct hf_source_memory_ops {
	/*
	 * Where the bytes of a chunk of a page that is present are, in the source's own mapping; NULL when
	 * all are zero (core/zero.h). The range has been checked. -EIO: they cannot be read (a memory error,
	 * a file cut short); asking must not kill.
	 */
	int (*chunk)(void *self, uint32_t block, uint64_t offset_bytes, uint32_t length_bytes,
		     const void **bytes, struct hf_err *err);
	/*
	 * Sets the bit of every page of the block that is present, without touching any. The bitmap has one
	 * bit a page, least significant bit first in each byte, zeroed by the caller. Called after the VM
	 * has stopped.
	 */
	int (*presence)(void *self, uint32_t block, uint8_t *bitmap, size_t bitmap_bytes, struct hf_err *err);
	/*
	 * Only asked where the engine is to release; else may be NULL. Gives pages back to the host: they are
	 * holes afterwards. Takes as long as the kernel takes; called by a thread of the port alone.
	 */
	int (*release)(void *self, uint32_t block, uint64_t first_page, uint32_t pages, struct hf_err *err);
	/* Asks a thread of the port to call hf_source_release_work() until it says that there is no more. */
	void (*kick_release)(void *self);
	/*
	 * Optional: which pages of the block were written since the last call; the first one, which exist.
	 * Called while the VM runs and once after it has stopped, by one thread at a time. What a chunk()
	 * that begins afterwards shows of a page is no older than this harvest. `holes`: of these, pages that
	 * do not exist and are not to be touched. Both bitmaps as above. After an error nothing is known.
	 */
	int (*harvest)(void *self, uint32_t block, uint8_t *dirtied, uint8_t *holes, size_t bitmap_bytes,
		       struct hf_err *err);
};

struct hf_source_memory {
	const struct hf_source_memory_ops *ops;
	void *self;
};

#endif
