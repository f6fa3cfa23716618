/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a VMM says about its memory, checked: numbers first (alignment, overflow, overlap in its address
 * space), then each file against its number (kind, page size, length, overlap in the file). Two regions
 * that share bytes would be fetched twice into one place; a file that ends early would be a SIGBUS in the
 * agent.
 */
#include "hugemem/attach_client_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hugemem/hugepool.h"

static int bad(struct hf_err *err, const char *idstr, const char *what)
{
	return hf_err_set(err, HF_ERR_PEER, EPROTO, "region '%s': %s", idstr, what);
}

static bool number(const json_t *object, const char *key, uint64_t *value)
{
	const json_t *found = json_object_get(object, key);
	if (!json_is_integer(found) || json_integer_value(found) < 0)
		return false;
	*value = (uint64_t)json_integer_value(found);
	return true;
}

// The registry checks idstr, page size, length and that the name is new.
static int parse_region(const json_t *object, struct hf_attached_region *region, bool *shared,
			struct hf_ramblocks *blocks, struct hf_err *err)
{
	const char *idstr = json_string_value(json_object_get(object, "idstr"));
	const json_t *shared_json = json_object_get(object, "shared");
	if (!idstr || !json_is_boolean(shared_json) ||
	    !number(object, "base_host_virt_addr", &region->vmm_address) ||
	    !number(object, "size", &region->length_bytes) ||
	    !number(object, "offset", &region->fd_offset_bytes) ||
	    !number(object, "page_size", &region->page_size_bytes))
		return hf_err_set(
		    err, HF_ERR_PEER, EPROTO,
		    "a region lacks idstr, base_host_virt_addr, size, offset, page_size or shared");
	int result = hf_ramblocks_add(blocks, idstr, region->length_bytes, region->page_size_bytes, err);
	if (result)
		return result;
	uint64_t mask = region->page_size_bytes - 1;
	if (region->page_size_bytes <= (uint64_t)sysconf(_SC_PAGESIZE))
		return bad(err, idstr, "its pages are no huge pages; give the VM memory on hugetlbfs");
	if (!region->vmm_address || region->vmm_address & mask || region->fd_offset_bytes & mask)
		return bad(err, idstr, "its address or file offset is no page boundary");
	if (region->length_bytes > INT64_MAX - region->vmm_address ||
	    region->length_bytes > INT64_MAX - region->fd_offset_bytes)
		return bad(err, idstr, "its address or file offset and its size overflow");
	snprintf(region->idstr, sizeof(region->idstr), "%s", idstr);
	region->fd = -1;
	*shared = json_is_true(shared_json);
	return 0;
}

static int check_file(const struct hf_attached_region *region, int fd, struct stat *file, struct hf_err *err)
{
	uint64_t page_size;
	if (hf_hugetlbfs_page_size(fd, &page_size, NULL))
		return bad(err, region->idstr, "the descriptor that came with it is no file on hugetlbfs");
	if (page_size != region->page_size_bytes) {
		char named[HF_SIZE_TEXT_BYTES], found[HF_SIZE_TEXT_BYTES];
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "region '%s': page size is %s as named and %s in its file", region->idstr,
				  hf_size_text(region->page_size_bytes, named),
				  hf_size_text(page_size, found));
	}
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || (flags & (O_ACCMODE | O_PATH)) != O_RDWR)
		return bad(err, region->idstr, "its file is not open for reading and writing");
	if (fstat(fd, file) || !S_ISREG(file->st_mode))
		return bad(err, region->idstr, "the descriptor that came with it is no regular file");
	uint64_t end_bytes = region->fd_offset_bytes + region->length_bytes;
	if ((uint64_t)file->st_size < end_bytes) {
		char there[HF_SIZE_TEXT_BYTES], needed[HF_SIZE_TEXT_BYTES];
		return hf_err_set(err, HF_ERR_PEER, EPROTO, "region '%s': its file has %s where it needs %s",
				  region->idstr, hf_size_text((uint64_t)file->st_size, there),
				  hf_size_text(end_bytes, needed));
	}
	return 0;
}

static bool overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
	return a < b + b_bytes && b < a + a_bytes;
}

static int check_pair(const struct hf_attached_region *a, const struct stat *a_file,
		      const struct hf_attached_region *b, const struct stat *b_file, struct hf_err *err)
{
	if (overlap(a->vmm_address, a->length_bytes, b->vmm_address, b->length_bytes))
		return bad(err, a->idstr, "it overlaps an earlier region in the VMM's address space");
	if (a->fd >= 0 && b->fd >= 0 && a_file->st_dev == b_file->st_dev &&
	    a_file->st_ino == b_file->st_ino &&
	    overlap(a->fd_offset_bytes, a->length_bytes, b->fd_offset_bytes, b->length_bytes))
		return bad(err, a->idstr, "it overlaps an earlier region in its file");
	return 0;
}

struct taking {
	struct hf_ramblocks blocks;
	struct hf_attached_region *regions;
	struct stat *files;
	uint32_t count, fds_used;
};

static int take_region(struct taking *taking, const json_t *object, const struct hf_attach_fds *fds,
		       struct hf_err *err)
{
	struct hf_attached_region *region = &taking->regions[taking->count];
	struct stat *file = &taking->files[taking->count];
	bool shared = false;
	int result = parse_region(object, region, &shared, &taking->blocks, err);
	if (result)
		return result;
	if (shared && taking->fds_used == fds->count)
		return bad(err, region->idstr, "it is shared memory, but no descriptor is left for it");
	if (shared) {
		region->fd = fds->fd[taking->fds_used++];
		result = check_file(region, region->fd, file, err);
	}
	for (uint32_t i = 0; !result && i < taking->count; i++)
		result = check_pair(region, file, &taking->regions[i], &taking->files[i], err);
	taking->count++;
	return result;
}

static int take_all(struct taking *taking, const json_t *list, const struct hf_attach_fds *fds,
		    struct hf_err *err)
{
	for (size_t i = 0; i < json_array_size(list); i++) {
		int result = take_region(taking, json_array_get(list, i), fds, err);
		if (result)
			return result;
	}
	if (taking->fds_used != fds->count)
		return hf_err_set(err, HF_ERR_PEER, EPROTO, "%u descriptors came for %u shared regions",
				  fds->count, taking->fds_used);
	return 0;
}

int hf_attach_client_take_regions(struct hf_attach_client *client, const json_t *list,
				  struct hf_attach_fds *fds, struct hf_err *err)
{
	size_t count = json_array_size(list);
	if (!count)
		return hf_err_set(
		    err, HF_ERR_PEER, ENOENT,
		    "it lends no memory; guest memory must be a file on hugetlbfs, mapped shared "
		    "(QEMU: memory-backend-file with share=on)");
	if (count > HF_RAMBLOCKS_MAX)
		return hf_err_set(err, HF_ERR_PEER, EPROTO, "it names %zu regions; 1 to %d are allowed",
				  count, HF_RAMBLOCKS_MAX);
	struct taking taking = {.regions = calloc(count, sizeof(*taking.regions)),
				.files = calloc(count, sizeof(*taking.files))};
	hf_ramblocks_init(&taking.blocks);
	int result = taking.regions && taking.files
			 ? take_all(&taking, list, fds, err)
			 : hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory for its regions");
	hf_ramblocks_destroy(&taking.blocks);
	free(taking.files);
	if (result) {
		free(taking.regions);
		return result;
	}
	client->regions = taking.regions;
	client->count = taking.count;
	fds->count = 0;
	return 0;
}

/* ---- names ---- */

int hf_attach_client_name_region(struct hf_attach_client *client, uint32_t region, const char *idstr,
				 struct hf_err *err)
{
	char *name = client->regions[region].idstr;
	if (strlen(idstr) > HF_RAMBLOCK_IDSTR_MAX)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "a block's name is longer than %d bytes: '%.32s...'", HF_RAMBLOCK_IDSTR_MAX,
				  idstr);
	memmove(name, idstr, strlen(idstr) + 1);
	return 0;
}

static bool is_file(int fd, const char *path)
{
	struct stat lent, named;
	return fd >= 0 && path && fstat(fd, &lent) == 0 && stat(path, &named) == 0 &&
	       lent.st_dev == named.st_dev && lent.st_ino == named.st_ino;
}

static const char *name_of(const struct hf_attached_region *region, const struct hf_block_file *files,
			   uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (!strcmp(region->idstr, files[i].idstr))
			return region->idstr;
	for (uint32_t i = 0; i < count; i++)
		if (is_file(region->fd, files[i].path))
			return files[i].idstr;
	return region->idstr;
}

int hf_attach_client_name_regions(struct hf_attach_client *client, const struct hf_block_file *files,
				  uint32_t count, struct hf_err *err)
{
	int result = 0;
	for (uint32_t i = 0; !result && i < client->count; i++)
		result =
		    hf_attach_client_name_region(client, i, name_of(&client->regions[i], files, count), err);
	return result;
}
