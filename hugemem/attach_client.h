/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach_client.h - the agent's side of the attach hand-off.
 *
 * Purpose: connects to a VMM's attach socket, learns its regions and obtains userfaultfds.
 * Ownership: the client owns the descriptors in its regions until destroy; a userfaultfd goes to the caller.
 * Threads: one at a time. Calls block, bounded by a timeout.
 * Units: bytes.
 * Errors: 0 or -errno with text; the VMM is an outside input, everything it says is checked.
 */
#ifndef HF_HUGEMEM_ATTACH_CLIENT_H
#define HF_HUGEMEM_ATTACH_CLIENT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/err.h"
#include "core/ramblock.h"

struct hf_attach_client;

struct hf_attached_region {
	char idstr[HF_RAMBLOCK_IDSTR_MAX + 1];
	uint64_t vmm_address; /* in the VMM's address space */
	uint64_t length_bytes;
	uint64_t page_size_bytes;
	uint64_t fd_offset_bytes;
	int fd; /* -1: private memory */
};

enum hf_userfault_mode {
	HF_USERFAULT_MISSING = 1 << 0,
	HF_USERFAULT_MINOR = 1 << 1,
	HF_USERFAULT_WP_ASYNC = 1 << 2,
};

int hf_attach_client_connect(struct hf_attach_client **out, const char *socket_path, struct hf_err *err);
/* The same with a bound of its own on each call, this one too; 0 = default (10 s). */
int hf_attach_client_connect_timeout(struct hf_attach_client **out, const char *socket_path,
				     uint32_t timeout_ms, struct hf_err *err);
/*
 * Without a word of the VMM, which may be frozen and stays so: duplicates out of its process what the library
 * in it would hand out (pidfd_getfd(), Linux 5.6; 5.13 for telling whose a registration is). known: its
 * regions, as `hello` has said them before; fd does not matter. The caller knows that the agent before has
 * ended, and that pid is its VMM. The next hf_attach_client_userfault() hands out the userfaultfd of the
 * registration that stands, in its modes; all ranges are woken. Nothing of the VMM changes before that.
 * -EPERM, -ENOSYS, -EOPNOTSUPP, ...: it cannot be had in this way, or nobody can tell; ask the VMM.
 */
int hf_attach_client_adopt(struct hf_attach_client **out, const char *socket_path, pid_t pid,
			   const char *vm_name, const struct hf_attached_region *known, uint32_t count,
			   struct hf_err *err);
/*
 * Of an adopted one, once the VMM answers again: connects, so that the next agent has to wait for this one's
 * end, and `release` can be said (which else tries it itself). Nothing for any other client.
 */
int hf_attach_client_join(struct hf_attach_client *client, uint32_t timeout_ms, struct hf_err *err);
void hf_attach_client_destroy(struct hf_attach_client *client);
pid_t hf_attach_client_pid(const struct hf_attach_client *client); /* of the VMM, from SO_PEERCRED */
const char *hf_attach_client_vm_name(const struct hf_attach_client *client);
const struct hf_attached_region *hf_attach_client_regions(const struct hf_attach_client *client,
							  uint32_t *count);
/* A block of memory and the file behind it; path may be NULL. */
struct hf_block_file {
	const char *idstr, *path;
};
/*
 * A VMM that was only preloaded with the library does not know its blocks' names: a region that has none of
 * them gets that of the block whose file it is. -EINVAL: a name that is too long.
 */
int hf_attach_client_name_regions(struct hf_attach_client *client, const struct hf_block_file *files,
				  uint32_t count, struct hf_err *err);
/* One of them, by its number. */
int hf_attach_client_name_region(struct hf_attach_client *client, uint32_t region, const char *idstr,
				 struct hf_err *err);
/*
 * A userfaultfd of the VMM's address space with all regions registered in `modes` (enum hf_userfault_mode,
 * ored) and at least `features` (UFFD_FEATURE_*). Where an earlier agent's registration in the same modes
 * still stands, *fd is another descriptor of that one, nothing was unregistered, and faults that agent had
 * read are raised again. A registration that guards missing pages is never replaced by another kind: -EINVAL,
 * release it first. Earlier write tracking is unregistered.
 */
int hf_attach_client_userfault(struct hf_attach_client *client, unsigned modes, uint64_t features, int *fd,
			       struct hf_err *err);
/* Was the last userfaultfd one of an earlier registration? If not, no page is guarded from before. */
bool hf_attach_client_resumed(const struct hf_attach_client *client);
/*
 * Ends the registration: the library unregisters the ranges and closes its copies. Pages that are missing now
 * read as zeros from here on.
 */
int hf_attach_client_release(struct hf_attach_client *client, struct hf_err *err);

#endif
