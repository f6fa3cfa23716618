/* SPDX-License-Identifier: Apache-2.0 */
/*
 * source_release.h - which pages the source has given back, or is about to.
 *
 * Purpose: the part of the source's engine that hears PLACED. The theory stands in source_release.c.
 * Ownership: a member of the engine's struct; create and destroy.
 * Threads: under the engine's lock, but hf_source_release_has(), which the page path asks.
 * Units: pages by the engine's numbers; bytes.
 * Errors: 0 or -errno; what the peer got wrong is -EPROTO of class HF_ERR_PEER.
 */
#ifndef HF_CORE_SOURCE_RELEASE_H
#define HF_CORE_SOURCE_RELEASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/pagemap.h"
#include "core/ramblock.h"

struct hf_source_release {
	bool wanted;
	struct hf_pagemap released; /* promised by the destination never to be asked for again */
	struct hf_pagemap pending;  /* of those the ones still here */
	uint32_t cursor;
	uint64_t pages, bytes; /* given back */
	struct hf_err err;     /* why some could not be */
};

/* A run of pages of one block. */
struct hf_release_run {
	uint32_t block;
	uint32_t first_page; /* in the block */
	uint32_t pages;
};

int hf_source_release_create(struct hf_source_release *release, uint32_t pages);
void hf_source_release_destroy(struct hf_source_release *release);
/* The payload of PLACED. Pages that are released leave `present`. */
int hf_source_release_placed(struct hf_source_release *release, const struct hf_ramblocks *blocks,
			     struct hf_pagemap *present, const uint8_t *payload, size_t bytes,
			     struct hf_err *err);
/* The next run to give back; false: none. */
bool hf_source_release_next(struct hf_source_release *release, const struct hf_ramblocks *blocks,
			    struct hf_release_run *run);
void hf_source_release_done(struct hf_source_release *release, const struct hf_ramblocks *blocks,
			    const struct hf_release_run *run, int result, const struct hf_err *err);
bool hf_source_release_has(const struct hf_source_release *release, uint32_t page);

#endif
