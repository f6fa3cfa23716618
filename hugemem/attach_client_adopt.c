/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation.
 *
 * A VMM whose VM may not run yet is frozen, and answers nobody. What the library in it would hand out lies in
 * its table of descriptors, and the kernel duplicates from there (pidfd_getfd()) without a step of the VMM's:
 *
 *   file of a region   an entry that is the file which smaps has at the region's address. It has to be what
 *                      must come with an answer to `hello` (attach_client_regions.c).
 *   userfaultfd        an entry that is one, and has the registration that smaps shows.
 *
 * Whose a registration is the kernel says to a REGISTER that cannot succeed: for minor faults, from the
 * region up to the stack, or what else is the last private memory without a file. It looks at the mappings
 * one after the other before it changes anything. A region that another userfaultfd has is EBUSY; only if
 * this one has it, or nobody, is the stack come to, which is EINVAL. That somebody has it smaps has shown.
 *
 * A userfaultfd of another process, passed or inherited, acts on that one's memory, and may answer the same.
 * So exactly one may pass; where two do, nobody can tell here, and the VMM has to be asked.
 *
 * Nothing of the VMM has changed until the memory is used. In the library this agent is nobody yet: once the
 * VMM goes on, join() says `hello` and `userfault`, by which it becomes the one whose end is waited for, and
 * has a connection for `release`. Until then its predecessor's connection is at its end, unread, and nothing
 * follows from that.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hugemem/attach_client_internal.h"
#include "hugemem/kernel_compat.h"
#include "hugemem/residency.h"
#include "hugemem/uffd_open.h"
#include "hugemem/userfault.h"

#define FDINFO_MAX_BYTES 256

struct adoption {
	struct hf_attach_client *client;
	int pidfd;
	DIR *entries; /* of the VMM's table */
	struct hf_vmm_mappings mappings;
	uint64_t probe_end; /* of the last mapping that is never registered for minor faults */
	const struct hf_attached_region *known;
	uint32_t count;
	struct hf_attach_fds files;
};

/* ---- what smaps shows ---- */

static bool is_within(const struct hf_vmm_mapping *mapping, const struct hf_attached_region *region)
{
	return mapping->end > region->vmm_address &&
	       mapping->start < region->vmm_address + region->length_bytes;
}

static unsigned modes_of(const struct hf_vmm_mapping *mapping)
{
	return (mapping->missing_faults ? HF_USERFAULT_MISSING : 0) |
	       (mapping->minor_faults ? HF_USERFAULT_MINOR : 0);
}

/* The mapping at its address; NULL, unless all of the region waits for pages, in the modes of the first one.
 */
static const struct hf_vmm_mapping *
look_at_region(struct adoption *adoption, const struct hf_attached_region *region, struct hf_err *err)
{
	unsigned *modes = &adoption->client->adopted_modes;
	const struct hf_vmm_mapping *first = NULL;
	for (size_t i = 0; i < adoption->mappings.count; i++) {
		const struct hf_vmm_mapping *mapping = &adoption->mappings.list[i];
		if (!is_within(mapping, region))
			continue;
		if (!*modes)
			*modes = modes_of(mapping);
		if (!*modes || modes_of(mapping) != *modes) {
			hf_err_set(err, HF_ERR_LOCAL, ESTALE,
				   "region '%s' does not wait for missing pages, or not as others do",
				   region->idstr);
			return NULL;
		}
		if (!first)
			first = mapping;
	}
	if (first && first->start <= region->vmm_address)
		return first;
	hf_err_set(err, HF_ERR_LOCAL, ESTALE, "region '%s' is not where it was", region->idstr);
	return NULL;
}

/* What is behind the regions and can never be registered for minor faults. */
static int find_probe_end(struct adoption *adoption, struct hf_err *err)
{
	uint64_t offered = UFFD_FEATURE_MINOR_HUGETLBFS;
	int result = hf_uffd_kernel_features(&offered, err);
	if (result)
		return result;
	if (!(offered & UFFD_FEATURE_MINOR_HUGETLBFS))
		return hf_err_set(err, HF_ERR_LOCAL, EOPNOTSUPP,
				  "this kernel does not offer MINOR_HUGETLBFS (Linux 5.13)");
	for (size_t i = 0; i < adoption->mappings.count; i++) {
		const struct hf_vmm_mapping *mapping = &adoption->mappings.list[i];
		if (!mapping->shared && mapping->inode == 0 && mapping->end <= INT64_MAX &&
		    mapping->page_size_bytes == (uint64_t)sysconf(_SC_PAGESIZE))
			adoption->probe_end = mapping->end;
	}
	return 0;
}

/* ---- its table of descriptors ---- */

static int open_process(struct adoption *adoption, struct hf_err *err)
{
	char path[64];
	pid_t pid = adoption->client->pid;
	adoption->pidfd = pidfd_open(pid, 0);
	if (adoption->pidfd < 0)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "its process %d cannot be watched: %s", (int)pid,
				  strerror(errno));
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	adoption->entries = opendir(path);
	if (!adoption->entries)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "cannot look at %s: %s", path, strerror(errno));
	return hf_vmm_mappings_load(pid, &adoption->mappings, err);
}

/* The next entry from where the last call stopped; NULL: there is none. */
static const char *next_entry(const struct adoption *adoption)
{
	const struct dirent *entry;
	while ((entry = readdir(adoption->entries)))
		if (entry->d_name[0] != '.')
			return entry->d_name;
	return NULL;
}

/* A duplicate; -EBADF: it has been closed meanwhile. */
static int duplicate(const struct adoption *adoption, const char *entry, struct hf_err *err)
{
	int fd = pidfd_getfd(adoption->pidfd, (int)strtol(entry, NULL, 10), 0);
	if (fd >= 0)
		return fd;
	return hf_err_set(
	    err, HF_ERR_LOCAL, errno, "its descriptor %s cannot be duplicated (pidfd_getfd): %s%s", entry,
	    strerror(errno),
	    errno == EPERM ? "; run this as root, with CAP_SYS_PTRACE, and look for a filter of "
			     "system calls"
			   : "");
}

static int duplicate_file(struct adoption *adoption, const struct hf_attached_region *region,
			  const struct hf_vmm_mapping *mapping, struct hf_err *err)
{
	struct stat found;
	const char *entry;
	rewinddir(adoption->entries);
	while ((entry = next_entry(adoption))) {
		if (fstatat(dirfd(adoption->entries), entry, &found, 0) ||
		    !hf_vmm_mapping_is_of(mapping, &found))
			continue;
		int fd = duplicate(adoption, entry, err);
		if (fd < 0)
			return fd;
		int flags = fcntl(fd, F_GETFL);
		if (flags >= 0 && (flags & (O_ACCMODE | O_PATH)) == O_RDWR) {
			adoption->files.fd[adoption->files.count++] = fd;
			return 0;
		}
		close(fd);
	}
	return hf_err_set(err, HF_ERR_LOCAL, ENOENT, "it has the RAM file of region '%s' open no more",
			  region->idstr);
}

/* ---- regions ---- */

static int append_region(json_t *list, const struct hf_attached_region *region, bool shared)
{
	return json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:I, s:I, s:b}", "idstr", region->idstr,
						     "base_host_virt_addr", (json_int_t)region->vmm_address,
						     "size", (json_int_t)region->length_bytes, "offset",
						     (json_int_t)region->fd_offset_bytes, "page_size",
						     (json_int_t)region->page_size_bytes, "shared", shared));
}

static int find_regions(struct adoption *adoption, json_t *list, struct hf_err *err)
{
	int result = 0;
	for (uint32_t i = 0; !result && i < adoption->count; i++) {
		const struct hf_attached_region *region = &adoption->known[i];
		const struct hf_vmm_mapping *mapping = look_at_region(adoption, region, err);
		if (!mapping)
			return -ESTALE;
		if (mapping->shared)
			result = duplicate_file(adoption, region, mapping, err);
		if (!result && append_region(list, region, mapping->shared))
			result = hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory for its regions");
	}
	return result;
}

/* As if the library had said so. */
static int take_regions(struct adoption *adoption, struct hf_err *err)
{
	json_t *list = json_array();
	int result = adoption->count <= HF_ATTACH_FDS_MAX
			 ? find_regions(adoption, list, err)
			 : hf_err_set(err, HF_ERR_LOCAL, E2BIG, "%u regions", adoption->count);
	if (!result)
		result = hf_attach_client_take_regions(adoption->client, list, &adoption->files, err);
	json_decref(list);
	return result;
}

/* ---- the userfaultfd ---- */

static bool has_region(const struct adoption *adoption, int fd, const struct hf_attached_region *region)
{
	uint64_t start = region->vmm_address;
	struct uffdio_register request = {.range = {.start = start, .len = adoption->probe_end - start},
					  .mode = UFFDIO_REGISTER_MODE_MINOR};
	if (adoption->probe_end <= start + region->length_bytes)
		return false;
	return ioctl(fd, UFFDIO_REGISTER, &request) && errno == EINVAL;
}

static bool has_all(const struct adoption *adoption, int fd)
{
	const struct hf_attach_client *client = adoption->client;
	for (uint32_t i = 0; i < client->count; i++)
		if (!has_region(adoption, fd, &client->regions[i]))
			return false;
	return true;
}

static bool is_named_userfaultfd(const struct adoption *adoption, const char *entry)
{
	char target[sizeof(HF_ATTACH_USERFAULTFD_LINK)];
	ssize_t length = readlinkat(dirfd(adoption->entries), entry, target, sizeof(target));
	return length == sizeof(target) - 1 && !memcmp(target, HF_ATTACH_USERFAULTFD_LINK, (size_t)length);
}

static int take_userfault(struct adoption *adoption, struct hf_err *err)
{
	struct hf_attach_client *client = adoption->client;
	const char *entry;
	int passed = 0;
	rewinddir(adoption->entries);
	while ((entry = next_entry(adoption))) {
		if (!is_named_userfaultfd(adoption, entry))
			continue;
		int fd = duplicate(adoption, entry, err);
		if (fd < 0)
			return fd;
		bool passes = hf_attach_client_is_userfaultfd(fd) && has_all(adoption, fd);
		passed += passes;
		if (passes && client->adopted_fd < 0)
			client->adopted_fd = fd;
		else
			close(fd);
	}
	if (passed == 1)
		return 0;
	return hf_err_set(err, HF_ERR_LOCAL, passed ? ENOTUNIQ : ENOENT,
			  passed ? "it has several userfaultfds, and which one its memory is registered with "
				   "cannot be told"
				 : "none of its descriptors is the userfaultfd that its memory is registered "
				   "with");
}

/* Those it was opened with: the third line of its fdinfo, "API: aa:FEATURES:...". */
static int read_features(struct hf_attach_client *client, struct hf_err *err)
{
	char path[64], text[FDINFO_MAX_BYTES];
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", client->adopted_fd);
	FILE *file = fopen(path, "re");
	bool found = false;
	while (file && !found && fgets(text, sizeof(text), file))
		found = sscanf(text, "API: %*x:%" SCNx64 ":", &client->adopted_features) == 1;
	if (file)
		fclose(file);
	return found
		   ? 0
		   : hf_err_set(err, HF_ERR_LOCAL, EPROTO, "the features of its userfaultfd cannot be read");
}

/* ---- the client ---- */

static int adopt(struct adoption *adoption, struct hf_err *err)
{
	int result = open_process(adoption, err);
	if (!result)
		result = find_probe_end(adoption, err);
	if (!result)
		result = take_regions(adoption, err);
	if (!result)
		result = take_userfault(adoption, err);
	if (!result)
		result = read_features(adoption->client, err);
	hf_attach_fds_close(&adoption->files);
	hf_vmm_mappings_free(&adoption->mappings);
	if (adoption->entries)
		closedir(adoption->entries);
	if (adoption->pidfd >= 0)
		close(adoption->pidfd);
	return result;
}

int hf_attach_client_adopt(struct hf_attach_client **out, const char *socket_path, pid_t pid,
			   const char *vm_name, const struct hf_attached_region *known, uint32_t count,
			   struct hf_err *err)
{
	struct hf_attach_client *client = hf_attach_client_new(socket_path, 0, err);
	if (!client)
		return -ENOMEM;
	client->pid = pid;
	client->adopted = true;
	snprintf(client->vm_name, sizeof(client->vm_name), "%s", vm_name);
	struct adoption adoption = {.client = client, .pidfd = -1, .known = known, .count = count};
	int result = adopt(&adoption, err);
	if (result) {
		hf_err_prefix(err, "VMM (pid %d)", (int)pid);
		hf_attach_client_destroy(client);
		return result;
	}
	*out = client;
	return 0;
}

int hf_attach_client_take_adopted(struct hf_attach_client *client, unsigned modes, uint64_t features, int *fd,
				  struct hf_err *err)
{
	if (modes != client->adopted_modes || features & ~client->adopted_features)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "the VMM's memory is registered in modes %#x with features %#" PRIx64
				  ", not in modes %#x with features %#" PRIx64,
				  client->adopted_modes, client->adopted_features, modes, features);
	for (uint32_t i = 0; i < client->count; i++)
		hf_userfault_wake(client->adopted_fd, client->regions[i].vmm_address,
				  client->regions[i].length_bytes);
	client->adopted_features = features;
	client->resumed = true;
	*fd = client->adopted_fd;
	client->adopted_fd = -1;
	return 0;
}

/* ---- once it answers again ---- */

static int become_holder(struct hf_attach_client *client, struct hf_attach_client *connected,
			 struct hf_err *err)
{
	int fd;
	if (connected->pid != client->pid)
		return hf_err_set(err, HF_ERR_PEER, ESTALE, "VMM at '%s': it is process %d now, not %d",
				  client->path, (int)connected->pid, (int)client->pid);
	int result =
	    hf_attach_client_userfault(connected, client->adopted_modes, client->adopted_features, &fd, err);
	if (result)
		return result;
	close(fd);
	if (!hf_attach_client_resumed(connected)) { /* it had none any more, and has made another */
		hf_attach_client_release(connected, NULL);
		return hf_err_set(err, HF_ERR_LOCAL, ESTALE,
				  "the VMM has ended the userfaultfd registration that its memory had");
	}
	client->socket = connected->socket;
	client->adopted = false;
	connected->socket = -1;
	return 0;
}

int hf_attach_client_join(struct hf_attach_client *client, uint32_t timeout_ms, struct hf_err *err)
{
	struct hf_attach_client *connected;
	if (!client->adopted)
		return 0;
	int result = hf_attach_client_connect_timeout(&connected, client->path, timeout_ms, err);
	if (result)
		return result;
	result = become_holder(client, connected, err);
	hf_attach_client_destroy(connected);
	return result;
}
