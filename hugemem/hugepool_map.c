/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The half of hugepool.h that maps memory; hugepool.c has the theory. mmap() is the promise: it reserves
 * every page or fails with ENOMEM, and the counts then tell the operator what is missing.
 */
#include "hugemem/hugepool.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <hugetlbfs.h>

#include "core/ramblock.h"
#include "hugemem/kernel_compat.h"

// ENOMEM from a mapping although the counts look well has two more causes.
static int no_pages(const char *what, uint64_t page_size_bytes, uint64_t pages, struct hf_err *err)
{
	int result = hf_hugepages_require(page_size_bytes, pages, err);
	if (!result) {
		char size[HF_SIZE_TEXT_BYTES];
		result =
		    hf_err_set(err, HF_ERR_LOCAL, ENOMEM,
			       "%llu huge pages of %s are free but were refused: look at the size= option of "
			       "the hugetlbfs mount and at the hugetlb limit of the control group",
			       (unsigned long long)pages, hf_size_text(page_size_bytes, size));
	}
	hf_err_prefix(err, "%s", what);
	return result;
}

static int check_size(uint64_t length_bytes, uint64_t page_size_bytes, struct hf_err *err)
{
	if (page_size_bytes < HF_PAGE_SIZE_MIN_BYTES || page_size_bytes > HF_PAGE_SIZE_MAX_BYTES ||
	    page_size_bytes & (page_size_bytes - 1))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "%llu bytes is no page size",
				  (unsigned long long)page_size_bytes);
	if (length_bytes && length_bytes <= INT64_MAX && length_bytes % page_size_bytes == 0)
		return 0;
	char size[HF_SIZE_TEXT_BYTES];
	return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
			  "a length of %llu bytes is not a whole number of %s huge pages",
			  (unsigned long long)length_bytes, hf_size_text(page_size_bytes, size));
}

static int check_file_system(int fd, const char *path, uint64_t page_size_bytes, struct hf_err *err)
{
	uint64_t found;
	int result = hf_hugetlbfs_page_size(fd, &found, err);
	if (result) {
		hf_err_prefix(err, "RAM file '%s'", path);
		return result;
	}
	if (found == page_size_bytes)
		return 0;
	char want[HF_SIZE_TEXT_BYTES], have[HF_SIZE_TEXT_BYTES];
	return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
			  "RAM file '%s': pages of %s are wanted, this hugetlbfs has pages of %s", path,
			  hf_size_text(page_size_bytes, want), hf_size_text(found, have));
}

static int map_ram_file(struct hf_ram_file *file, struct hf_err *err)
{
	int result = check_file_system(file->fd, file->path, file->page_size_bytes, err);
	if (result)
		return result;
	if (ftruncate(file->fd, (off_t)file->length_bytes))
		return hf_err_set(err, HF_ERR_LOCAL, errno, "RAM file '%s': cannot set its length: %s",
				  file->path, strerror(errno));
	void *address = mmap(NULL, file->length_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file->fd, 0);
	if (address != MAP_FAILED) {
		file->address = address;
		return 0;
	}
	int why = errno;
	if (why == ENOMEM)
		return no_pages(file->path, file->page_size_bytes, file->length_bytes / file->page_size_bytes,
				err);
	return hf_err_set(err, HF_ERR_LOCAL, why, "RAM file '%s': cannot be mapped: %s", file->path,
			  strerror(why));
}

int hf_ram_file_create(struct hf_ram_file *file, const char *path, uint64_t length_bytes,
		       uint64_t page_size_bytes, struct hf_err *err)
{
	int result = check_size(length_bytes, page_size_bytes, err);
	if (result)
		return result;
	struct hf_ram_file made = {.length_bytes = length_bytes, .page_size_bytes = page_size_bytes};
	size_t length = strlen(path);
	if (!length || length >= sizeof(made.path))
		return hf_err_set(err, HF_ERR_LOCAL, ENAMETOOLONG,
				  "the path of a RAM file must have 1 to %zu characters",
				  sizeof(made.path) - 1);
	memcpy(made.path, path, length + 1);
	made.fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (made.fd < 0)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "cannot create RAM file '%s': %s%s", path,
				  strerror(errno),
				  errno == EEXIST ? "; remove what an earlier run has left" : "");
	result = map_ram_file(&made, err);
	if (result) {
		hf_ram_file_destroy(&made);
		return result;
	}
	*file = made;
	return 0;
}

// Somebody may have replaced the file since; theirs stays.
static void unlink_own(const struct hf_ram_file *file)
{
	struct stat ours, there;
	if (file->path[0] && !fstat(file->fd, &ours) && !lstat(file->path, &there) &&
	    ours.st_dev == there.st_dev && ours.st_ino == there.st_ino)
		unlink(file->path);
}

void hf_ram_file_destroy(struct hf_ram_file *file)
{
	if (!file || !file->length_bytes)
		return;
	if (file->address)
		munmap(file->address, file->length_bytes);
	unlink_own(file);
	close(file->fd);
	*file = (struct hf_ram_file){0};
}

/* ---- staging ---- */

static void *map_default_size(uint64_t page_size_bytes, uint64_t pages)
{
	if (gethugepagesize() != (long)page_size_bytes || hf_hugepages_require(page_size_bytes, pages, NULL))
		return NULL;
	return get_huge_pages(pages * page_size_bytes, GHP_DEFAULT);
}

static void *map_any_size(uint64_t page_size_bytes, uint64_t pages)
{
	unsigned size_flag = (unsigned)__builtin_ctzll(page_size_bytes) << MAP_HUGE_SHIFT;
	void *address = mmap(NULL, pages * page_size_bytes, PROT_READ | PROT_WRITE,
			     (int)(MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | size_flag), -1, 0);
	return address == MAP_FAILED ? NULL : address;
}

int hf_hugepages_map(uint64_t page_size_bytes, uint64_t pages, void **address, struct hf_err *err)
{
	if (pages > INT64_MAX / HF_PAGE_SIZE_MAX_BYTES)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "%llu huge pages are more than any host has",
				  (unsigned long long)pages);
	int result = check_size(pages * page_size_bytes, page_size_bytes, err);
	struct hf_hugepage_counts counts;
	if (!result)
		result = hf_hugepage_counts(page_size_bytes, &counts, err);
	if (result)
		return result;

	void *mapped = map_default_size(page_size_bytes, pages);
	if (!mapped)
		mapped = map_any_size(page_size_bytes, pages);
	if (!mapped)
		return no_pages("staging memory", page_size_bytes, pages, err);
	// A reserved page can still be refused when touched, by a control group; find out here, without
	// SIGBUS.
	if (madvise(mapped, pages * page_size_bytes, MADV_POPULATE_WRITE)) {
		int why = errno;
		munmap(mapped, pages * page_size_bytes);
		if (why == EFAULT || why == ENOMEM)
			return no_pages("staging memory", page_size_bytes, pages, err);
		return hf_err_set(err, HF_ERR_LOCAL, why,
				  "staging memory cannot be allocated: %s (Linux 5.14 or newer is needed)",
				  strerror(why));
	}
	*address = mapped;
	return 0;
}
