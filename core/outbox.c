/* SPDX-License-Identifier: Apache-2.0 */
#include "core/outbox.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int hf_outbox_frame_create(struct hf_outbox_frame **out, uint32_t type, const void *payload,
			   size_t length_bytes)
{
	if (length_bytes > HF_WIRE_FRAME_MAX_BYTES)
		return -EMSGSIZE;
	struct hf_outbox_frame *frame = malloc(sizeof(*frame) + HF_WIRE_FRAME_HEADER_BYTES + length_bytes);
	if (!frame)
		return -ENOMEM;
	struct hf_wire_frame_header header = {.type = type, .length_bytes = (uint32_t)length_bytes};
	if (hf_wire_encode_frame_header(&header, frame->bytes, HF_WIRE_FRAME_HEADER_BYTES) !=
	    HF_WIRE_FRAME_HEADER_BYTES) {
		free(frame);
		return -EINVAL;
	}
	if (length_bytes)
		memcpy(frame->bytes + HF_WIRE_FRAME_HEADER_BYTES, payload, length_bytes);
	frame->length_bytes = HF_WIRE_FRAME_HEADER_BYTES + length_bytes;
	frame->next = NULL;
	*out = frame;
	return 0;
}

int hf_outbox_append(struct hf_outbox *outbox, struct hf_outbox_frame *frame)
{
	if (frame->length_bytes > outbox->most_bytes - outbox->bytes)
		return -ENOBUFS;
	if (outbox->last)
		outbox->last->next = frame;
	else
		outbox->first = frame;
	outbox->last = frame;
	outbox->bytes += frame->length_bytes;
	return 0;
}

struct hf_outbox_frame *hf_outbox_take_first(struct hf_outbox *outbox)
{
	struct hf_outbox_frame *first = outbox->first;
	if (!first)
		return NULL;
	outbox->first = first->next;
	outbox->bytes -= first->length_bytes;
	if (!outbox->first)
		outbox->last = NULL;
	return first;
}

void hf_outbox_empty(struct hf_outbox *outbox)
{
	struct hf_outbox_frame *first;
	while ((first = hf_outbox_take_first(outbox)))
		free(first);
}
