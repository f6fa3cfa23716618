/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach_client_internal.h - the inside of the attach client.
 *
 * Purpose: attach_client.c talks; attach_client_regions.c judges what the VMM says about its memory;
 * attach_client_adopt.c does without a word of a VMM that is frozen.
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

	bool adopted;		   /* and not joined: no socket yet */
	int adopted_fd;		   /* the userfaultfd, until it is asked for; -1: none */
	unsigned adopted_modes;	   /* enum hf_userfault_mode, ored */
	uint64_t adopted_features; /* UFFD_FEATURE_*; what was asked for once it was */
};

/* What a descriptor is called in /proc. */
#define HF_ATTACH_USERFAULTFD_LINK "anon_inode:[userfaultfd]"

/* Without socket and regions; NULL: out of memory. */
struct hf_attach_client *hf_attach_client_new(const char *socket_path, uint32_t timeout_ms,
					      struct hf_err *err);
/* A non-blocking one of this kernel; only such a one may be polled and waited on. */
bool hf_attach_client_is_userfaultfd(int fd);
/* hf_attach_client_userfault() of a client that has adopted one. */
int hf_attach_client_take_adopted(struct hf_attach_client *client, unsigned modes, uint64_t features, int *fd,
				  struct hf_err *err);

/*
 * Checks the whole list and the descriptors, then moves both into the client. On failure the client has no
 * regions and the descriptors stay in fds.
 */
int hf_attach_client_take_regions(struct hf_attach_client *client, const json_t *list,
				  struct hf_attach_fds *fds, struct hf_err *err);

#endif
