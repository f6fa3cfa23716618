/* SPDX-License-Identifier: Apache-2.0 */
/*
 * channel_load.h - which page channel of a class takes the next fetch.
 *
 * Purpose: the one with the fewest bytes to come. A channel has one class, so an urgent fetch never stands
 * behind a background one.
 * Ownership: part of a transport's page channel, which keeps the counts.
 * Threads: any; what a count says may have changed since, so who takes a channel looks again under its lock.
 * Units: bytes, fetches.
 * Errors: none.
 */
#ifndef HF_CORE_CHANNEL_LOAD_H
#define HF_CORE_CHANNEL_LOAD_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "core/transport.h"

struct hf_channel_load {
	enum hf_fetch_class class; /* constant */
	_Atomic uint32_t outstanding;
	_Atomic uint64_t outstanding_bytes;
};

#define HF_CHANNEL_NONE UINT32_MAX

/*
 * Channels are an array of structures of stride_bytes; first is the load in the first of them. Returns which
 * one; HF_CHANNEL_NONE: none has room.
 */
uint32_t hf_channel_pick(const struct hf_channel_load *first, size_t stride_bytes, uint32_t count,
			 enum hf_fetch_class class, uint32_t fetches_max);

#endif
