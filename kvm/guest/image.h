/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.h - what the loader and the verifier of guest memory share.
 *
 * Purpose: makes the header from a configuration and the system part of memory from the header.
 * Ownership: the caller's buffers.
 * Threads: pure functions.
 * Units: bytes.
 * Errors: 0 or -errno with text.
 */
#ifndef HF_KVM_GUEST_IMAGE_H
#define HF_KVM_GUEST_IMAGE_H

#include "core/err.h"
#include "kvm/guest.h"
#include "kvm/guest/layout.h"

/* Checks the configuration and lays memory out. */
int hf_guest_header_make(struct hf_guest_header *header, const struct hf_guest_config *config,
			 struct hf_err *err);
/* The header of a guest's memory; -EBADMSG when what stands there cannot have been made by the above. */
int hf_guest_header_read(struct hf_guest_header *header, const void *memory, uint64_t memory_bytes,
			 struct hf_err *err);
/* Writes the first header->system_bytes of memory as they are before the first run. */
void hf_guest_system_image(uint8_t *image, const struct hf_guest_header *header);

#endif
