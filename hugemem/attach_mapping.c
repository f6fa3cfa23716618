/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Walks /proc/self/smaps, which lists mappings in address order: a header line with the range, then its
 * properties, of which KernelPageSize is the one that cannot be faked. `next` is the first byte of the region
 * not yet seen to be mapped; a region may span several mappings, each must fit.
 */
#include "hugemem/attach_mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "core/ramblock.h"
#include "hugemem/hugepool.h"

struct walk {
	const struct hf_attach_region *region;
	struct stat file; /* of region->fd */
	uint64_t next, end;
	bool inside; /* the properties being read are of a mapping of the region */
};

struct vma {
	unsigned long long start, end, offset, inode;
	unsigned major, minor;
	char permissions[5];
};

static int check_vma(const struct walk *walk, const struct vma *vma, struct hf_err *err)
{
	const struct hf_attach_region *region = walk->region;
	bool shared = vma->permissions[3] == 's';
	if (vma->permissions[0] != 'r' || vma->permissions[1] != 'w')
		return hf_err_set(err, HF_ERR_LOCAL, EACCES,
				  "region '%s' is not mapped readable and writable", region->idstr);
	if (shared != (region->fd >= 0))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "region '%s' is mapped %s, but %s file was given", region->idstr,
				  shared ? "shared" : "private", shared ? "no" : "a");
	if (!shared)
		return 0;
	uint64_t offset = region->fd_offset_bytes + (vma->start - (uint64_t)(uintptr_t)region->address);
	if (vma->inode != walk->file.st_ino || makedev(vma->major, vma->minor) != walk->file.st_dev ||
	    vma->offset != offset)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "region '%s' is not a mapping of the file that was given, at offset %llu",
				  region->idstr, (unsigned long long)region->fd_offset_bytes);
	return 0;
}

static bool parse_header(const char *line, struct vma *vma)
{
	return sscanf(line, "%llx-%llx %4s %llx %x:%x %llu", &vma->start, &vma->end, vma->permissions,
		      &vma->offset, &vma->major, &vma->minor, &vma->inode) == 7;
}

static int check_page_size(const struct walk *walk, unsigned long long kib, struct hf_err *err)
{
	uint64_t found = kib * 1024, named = walk->region->page_size_bytes;
	char found_text[HF_SIZE_TEXT_BYTES], named_text[HF_SIZE_TEXT_BYTES];
	if (found <= (uint64_t)sysconf(_SC_PAGESIZE))
		return hf_err_set(
		    err, HF_ERR_LOCAL, EINVAL,
		    "region '%s' is made of %s pages; its memory must come from hugetlbfs or MAP_HUGETLB",
		    walk->region->idstr, hf_size_text(found, found_text));
	if (found != named)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EINVAL, "region '%s': page size is %s in the mapping and %s as named",
		    walk->region->idstr, hf_size_text(found, found_text), hf_size_text(named, named_text));
	return 0;
}

static int take_line(struct walk *walk, const char *line, struct hf_err *err)
{
	struct vma vma;
	unsigned long long kib;
	if (parse_header(line, &vma)) {
		walk->inside = vma.start <= walk->next && walk->next < vma.end && walk->next < walk->end;
		if (!walk->inside)
			return 0;
		// The offset check wants the region's own first byte, not that of a larger mapping.
		uint64_t first = (uint64_t)(uintptr_t)walk->region->address;
		if (vma.start < first) {
			vma.offset += first - vma.start;
			vma.start = first;
		}
		int result = check_vma(walk, &vma, err);
		walk->next = vma.end;
		return result;
	}
	if (walk->inside && sscanf(line, "KernelPageSize: %llu kB", &kib) == 1)
		return check_page_size(walk, kib, err);
	return 0;
}

static int walk_smaps(struct walk *walk, struct hf_err *err)
{
	FILE *smaps = fopen("/proc/self/smaps", "re");
	if (!smaps)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "cannot check region '%s': /proc/self/smaps: %s",
				  walk->region->idstr, strerror(errno));
	char *line = NULL;
	size_t capacity = 0;
	int result = 0;
	while (!result && getline(&line, &capacity, smaps) > 0)
		result = take_line(walk, line, err);
	free(line);
	fclose(smaps);
	if (!result && walk->next < walk->end)
		result = hf_err_set(
		    err, HF_ERR_LOCAL, EFAULT, "region '%s' is not mapped at offset %llu of its %llu bytes",
		    walk->region->idstr,
		    (unsigned long long)(walk->next - (uint64_t)(uintptr_t)walk->region->address),
		    (unsigned long long)walk->region->length_bytes);
	return result;
}

static int check_file(struct walk *walk, struct hf_err *err)
{
	const struct hf_attach_region *region = walk->region;
	uint64_t page_size;
	int result = hf_hugetlbfs_page_size(region->fd, &page_size, err);
	if (result) {
		hf_err_prefix(err, "region '%s'", region->idstr);
		return result;
	}
	int flags = fcntl(region->fd, F_GETFL);
	if (flags < 0 || (flags & (O_ACCMODE | O_PATH)) != O_RDWR)
		return hf_err_set(err, HF_ERR_LOCAL, EACCES,
				  "region '%s': its file must be open for reading and writing",
				  region->idstr);
	if (fstat(region->fd, &walk->file))
		return hf_err_set(err, HF_ERR_LOCAL, errno, "region '%s': its file: %s", region->idstr,
				  strerror(errno));
	return 0;
}

int hf_attach_mapping_check(const struct hf_attach_region *region, struct hf_err *err)
{
	uint64_t first = (uint64_t)(uintptr_t)region->address;
	struct walk walk = {.region = region, .next = first, .end = first + region->length_bytes};
	int result = region->fd >= 0 ? check_file(&walk, err) : 0;
	return result ? result : walk_smaps(&walk, err);
}
