/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach_client_internal.h - the inside of the attach client.
 *
 * Purpose: attach_client.c talks; attach_client_regions.c judges what the VMM says about its memory.
 * Ownership: the client owns everything in it.
 * Threads: one at a time.
 * Units: bytes, milliseconds.
 * Errors: 0 or -errno with text.
 */
#ifndef HF_HUGEMEM_ATTACH_CLIENT_INTERNAL_H
#define HF_HUGEMEM_ATTACH_CLIENT_INTERNAL_H

#include <jansson.h>

#include "hugemem/attach_client.h"
#include "hugemem/attach_wire.h"

struct hf_attach_client {
	char *path;
	uint32_t timeout_ms;
	int socket; /* -1: at its end */
	pid_t pid;
	bool resumed;
	char vm_name[HF_RAMBLOCK_IDSTR_MAX + 1];
	struct hf_attached_region *regions;
	uint32_t count;
};

/*
 * Checks the whole list and the descriptors, then moves both into the client. On failure the client has no
 * regions and the descriptors stay in fds.
 */
int hf_attach_client_take_regions(struct hf_attach_client *client, const json_t *list,
				  struct hf_attach_fds *fds, struct hf_err *err);

#endif
