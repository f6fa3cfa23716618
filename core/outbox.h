/* SPDX-License-Identifier: Apache-2.0 */
/*
 * outbox.h - frames of a control channel that wait to be sent.
 *
 * Purpose: a bounded queue. A transport cuts what it holds into whatever carries it.
 * Ownership: a frame is the queue's from hf_outbox_append() on.
 * Threads: the caller's lock guards the queue; the bytes of the first frame are constant while it is there.
 * Units: bytes, frame headers included.
 * Errors: -ENOBUFS: full; -EMSGSIZE: no frame is that long; -ENOMEM; -EINVAL: no such type.
 */
#ifndef HF_CORE_OUTBOX_H
#define HF_CORE_OUTBOX_H

#include <stddef.h>
#include <stdint.h>

#include "core/wire.h"

struct hf_outbox_frame {
	struct hf_outbox_frame *next;
	size_t length_bytes;
	uint8_t bytes[]; /* header and payload */
};

/* All zero but for most_bytes: empty. */
struct hf_outbox {
	struct hf_outbox_frame *first, *last;
	size_t bytes, most_bytes;
};

/* Room for a whole device state and what goes beside it. */
#define HF_OUTBOX_MOST_BYTES ((size_t)HF_WIRE_DEVICE_STATE_MAX_BYTES + (64u << 20))

/* Without the lock: copies the payload. */
int hf_outbox_frame_create(struct hf_outbox_frame **out, uint32_t type, const void *payload,
			   size_t length_bytes);
int hf_outbox_append(struct hf_outbox *outbox, struct hf_outbox_frame *frame);
/* Takes the first one out; the caller frees it. NULL: there is none. */
struct hf_outbox_frame *hf_outbox_take_first(struct hf_outbox *outbox);
void hf_outbox_empty(struct hf_outbox *outbox);

#endif
