/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation.
 *
 * Counts come from sysfs and are hints: somebody else may take the pages the moment after. Promises come only
 * from mappings, because mmap() of hugetlb memory reserves all its pages or fails; so both kinds of memory
 * made here are mapped without MAP_NORESERVE and a failure is then explained by the counts.
 *
 * The pool is changed by reading nr_hugepages, adding, and writing it back. Two programs doing that at once
 * would lose one change, so users of this library take an flock on the file. The number read contains
 * surplus pages and the number written does not: surplus is subtracted. Both change together while a process
 * ends, and are read one after the other: a total that has changed once the surplus is read is read again, or
 * the pool would keep what was freed in between. The kernel allocates what it can and reports no error, so
 * the result is read back; a rise that falls short is undone.
 *
 * libhugetlbfs says which sizes and mounts there are and maps the default size. It prints a warning when
 * get_huge_pages() fails, so that is only called when the counts promise success; other sizes it cannot map.
 */
#include "hugemem/hugepool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <hugetlbfs.h>

#include "core/ramblock.h"
#include "hugemem/kernel_compat.h"

#define POOL_PATH "/sys/kernel/mm/hugepages/hugepages-%llukB"
#define SIZES_MAX 16

static int compare_sizes(const void *a, const void *b)
{
	uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
	return (left > right) - (left < right);
}

int hf_hugepage_sizes(uint64_t *page_sizes_bytes, int max)
{
	long found[SIZES_MAX];
	int n = gethugepagesizes(found, SIZES_MAX);
	if (n < 0)
		return errno == ENOSYS || errno == ENOENT ? 0 : -errno;
	uint64_t sorted[SIZES_MAX] = {0};
	for (int i = 0; i < n; i++)
		sorted[i] = (uint64_t)found[i];
	qsort(sorted, (size_t)n, sizeof(sorted[0]), compare_sizes);
	if (n > max)
		n = max;
	for (int i = 0; i < n; i++)
		page_sizes_bytes[i] = sorted[i];
	return n;
}

bool hf_hugepage_size_is_offered(uint64_t page_size_bytes)
{
	uint64_t sizes[SIZES_MAX];
	int n = hf_hugepage_sizes(sizes, SIZES_MAX);
	for (int i = 0; i < n; i++)
		if (sizes[i] == page_size_bytes)
			return true;
	return false;
}

/* ---- counts ---- */

static int read_count(const char *path, uint64_t *value)
{
	FILE *file = fopen(path, "re");
	if (!file)
		return -errno;
	unsigned long long number;
	int result = fscanf(file, "%llu", &number) == 1 ? 0 : -EIO;
	fclose(file);
	if (!result)
		*value = number;
	return result;
}

static int read_pool(uint64_t page_size_bytes, const char *what, uint64_t *value)
{
	char path[128];
	snprintf(path, sizeof(path), POOL_PATH "/%s", (unsigned long long)page_size_bytes / 1024, what);
	return read_count(path, value);
}

static int read_node(int node, uint64_t page_size_bytes, const char *what, uint64_t *value)
{
	char path[160];
	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/hugepages/hugepages-%llukB/%s", node,
		 (unsigned long long)page_size_bytes / 1024, what);
	return read_count(path, value);
}

static int compare_nodes(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static void read_nodes(uint64_t page_size_bytes, struct hf_hugepage_counts *counts)
{
	DIR *directory = opendir("/sys/devices/system/node");
	if (!directory)
		return; // a kernel without NUMA
	int ids[HF_NUMA_NODES_MAX] = {0};
	uint32_t n = 0;
	struct dirent *entry;
	while (n < HF_NUMA_NODES_MAX && (entry = readdir(directory)))
		if (sscanf(entry->d_name, "node%d", &ids[n]) == 1 && ids[n] >= 0)
			n++;
	closedir(directory);
	qsort(ids, n, sizeof(ids[0]), compare_nodes);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t total = 0, available = 0;
		if (read_node(ids[i], page_size_bytes, "nr_hugepages", &total) ||
		    read_node(ids[i], page_size_bytes, "free_hugepages", &available))
			continue; // a node without memory of its own
		counts->node_id[counts->nodes] = ids[i];
		counts->node_total[counts->nodes] = total;
		counts->node_free[counts->nodes] = available;
		counts->nodes++;
	}
}

#define OFFERED_TEXT_BYTES (SIZES_MAX * (HF_SIZE_TEXT_BYTES + 2ul))

// "2 MiB, 1 GiB", or "none".
static void list_offered(char offered[static OFFERED_TEXT_BYTES])
{
	uint64_t sizes[SIZES_MAX] = {0};
	int n = hf_hugepage_sizes(sizes, SIZES_MAX);
	size_t used = 0;
	char text[HF_SIZE_TEXT_BYTES];
	for (int i = 0; i < n; i++)
		used += (size_t)snprintf(offered + used, OFFERED_TEXT_BYTES - used, "%s%s", i ? ", " : "",
					 hf_size_text(sizes[i], text));
	if (!used)
		snprintf(offered, OFFERED_TEXT_BYTES, "none");
}

static int not_offered(uint64_t page_size_bytes, struct hf_err *err)
{
	char offered[OFFERED_TEXT_BYTES], text[HF_SIZE_TEXT_BYTES];
	list_offered(offered);
	return hf_err_set(err, HF_ERR_LOCAL, ENODEV,
			  "this kernel has no huge pages of %s; it offers: %s (1 GiB pages may need "
			  "hugepagesz=1G on the kernel command line)",
			  hf_size_text(page_size_bytes, text), offered);
}

// Of one moment, as far as the total and the surplus go.
static int read_total_and_surplus(uint64_t page_size_bytes, struct hf_hugepage_counts *counts)
{
	uint64_t again = 0;
	int result = read_pool(page_size_bytes, "nr_hugepages", &again);
	do {
		counts->total = again;
		if (!result)
			result = read_pool(page_size_bytes, "surplus_hugepages", &counts->surplus);
		if (!result)
			result = read_pool(page_size_bytes, "nr_hugepages", &again);
	} while (!result && again != counts->total);
	return result;
}

int hf_hugepage_counts(uint64_t page_size_bytes, struct hf_hugepage_counts *out, struct hf_err *err)
{
	struct hf_hugepage_counts counts = {0};
	int result = read_total_and_surplus(page_size_bytes, &counts);
	if (!result)
		result = read_pool(page_size_bytes, "free_hugepages", &counts.free);
	if (!result)
		result = read_pool(page_size_bytes, "resv_hugepages", &counts.reserved);
	if (result == -ENOENT)
		return not_offered(page_size_bytes, err);
	if (result) {
		char size[HF_SIZE_TEXT_BYTES];
		return hf_err_set(err, HF_ERR_LOCAL, -result, "cannot read the counts of %s huge pages: %s",
				  hf_size_text(page_size_bytes, size), strerror(-result));
	}
	read_nodes(page_size_bytes, &counts);
	*out = counts;
	return 0;
}

static uint64_t persistent(const struct hf_hugepage_counts *counts)
{
	return counts->total > counts->surplus ? counts->total - counts->surplus : 0;
}

int hf_hugepages_require(uint64_t page_size_bytes, uint64_t pages, struct hf_err *err)
{
	struct hf_hugepage_counts counts;
	int result = hf_hugepage_counts(page_size_bytes, &counts, err);
	if (result)
		return result;
	uint64_t available = hf_hugepages_available(&counts);
	if (available >= pages)
		return 0;
	uint64_t missing = pages - available;
	uint64_t enough = counts.total + missing; // what is written takes in the surplus first
	char size[HF_SIZE_TEXT_BYTES];
	return hf_err_set(err, HF_ERR_LOCAL, ENOMEM,
			  "%llu huge pages of %s are missing (%llu needed, %llu available); add them with: "
			  "echo %llu > " POOL_PATH "/nr_hugepages",
			  (unsigned long long)missing, hf_size_text(page_size_bytes, size),
			  (unsigned long long)pages, (unsigned long long)available,
			  (unsigned long long)enough, (unsigned long long)page_size_bytes / 1024);
}

/* ---- changing the pool ---- */

// The lock keeps users of this library from losing each other's changes. Closing the file lets go.
static int pool_open(uint64_t page_size_bytes, struct hf_err *err)
{
	char path[128], size[HF_SIZE_TEXT_BYTES];
	snprintf(path, sizeof(path), POOL_PATH "/nr_hugepages", (unsigned long long)page_size_bytes / 1024);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return not_offered(page_size_bytes, err);
	if (fd < 0)
		return hf_err_set(err, HF_ERR_LOCAL, errno,
				  "cannot change the pool of %s huge pages: %s: %s; this needs root",
				  hf_size_text(page_size_bytes, size), path, strerror(errno));
	while (flock(fd, LOCK_EX)) {
		if (errno == EINTR)
			continue;
		int why = errno;
		close(fd);
		return hf_err_set(err, HF_ERR_LOCAL, why, "cannot lock %s: %s", path, strerror(why));
	}
	return fd;
}

static int pool_write(int fd, uint64_t page_size_bytes, uint64_t pages, struct hf_err *err)
{
	char text[32], size[HF_SIZE_TEXT_BYTES];
	int n = snprintf(text, sizeof(text), "%llu", (unsigned long long)pages);
	if (pwrite(fd, text, (size_t)n, 0) == n)
		return 0;
	int why = errno;
	return hf_err_set(err, HF_ERR_LOCAL, why, "the kernel refuses a pool of %llu huge pages of %s: %s",
			  (unsigned long long)pages, hf_size_text(page_size_bytes, size), strerror(why));
}

static int fell_short(uint64_t page_size_bytes, uint64_t wanted, uint64_t possible, struct hf_err *err)
{
	char size[HF_SIZE_TEXT_BYTES];
	return hf_err_set(err, HF_ERR_LOCAL, ENOMEM,
			  "%llu more huge pages of %s are wanted, this host has memory for %llu; free "
			  "memory, or reserve them at boot with hugepagesz=%lluK hugepages=N",
			  (unsigned long long)wanted, hf_size_text(page_size_bytes, size),
			  (unsigned long long)possible, (unsigned long long)page_size_bytes / 1024);
}

// The kernel would try: throw out all page cache and then kill processes. An estimate is enough to stop that.
static uint64_t pages_possible(uint64_t page_size_bytes)
{
	FILE *file = fopen("/proc/meminfo", "re");
	char line[128];
	unsigned long long kib, available_kib = UINT64_MAX / 1024;
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
			available_kib = kib;
	if (file)
		fclose(file);
	return available_kib / (page_size_bytes / 1024);
}

static int raise_pool(int fd, uint64_t page_size_bytes, uint64_t pages, uint64_t *added, struct hf_err *err)
{
	struct hf_hugepage_counts before, after;
	int result = hf_hugepage_counts(page_size_bytes, &before, err);
	if (result)
		return result;
	uint64_t available = hf_hugepages_available(&before);
	if (available >= pages)
		return 0;
	uint64_t wanted = pages - available, old = persistent(&before);
	uint64_t possible = pages_possible(page_size_bytes);
	if (wanted > possible)
		return fell_short(page_size_bytes, wanted, possible, err);
	uint64_t in_use = before.total - old; // the surplus
	result = pool_write(fd, page_size_bytes, old + in_use + wanted, err);
	if (!result)
		result = hf_hugepage_counts(page_size_bytes, &after, err);
	if (result) {
		pool_write(fd, page_size_bytes, old, NULL);
		return result;
	}
	uint64_t got = persistent(&after) > old ? persistent(&after) - old : 0;
	if (got < in_use + wanted) {
		pool_write(fd, page_size_bytes, old, NULL);
		return fell_short(page_size_bytes, wanted, got > in_use ? got - in_use : 0, err);
	}
	*added = got;
	return 0;
}

int hf_hugepages_reserve(uint64_t page_size_bytes, uint64_t pages, uint64_t *added, struct hf_err *err)
{
	*added = 0;
	int fd = pool_open(page_size_bytes, err);
	if (fd < 0)
		return fd;
	int result = raise_pool(fd, page_size_bytes, pages, added, err);
	close(fd);
	return result;
}

int hf_hugepages_give_back(uint64_t page_size_bytes, uint64_t added, struct hf_err *err)
{
	if (!added)
		return 0;
	int fd = pool_open(page_size_bytes, err);
	if (fd < 0)
		return fd;
	struct hf_hugepage_counts counts;
	int result = hf_hugepage_counts(page_size_bytes, &counts, err);
	if (!result && persistent(&counts) < added) {
		char size[HF_SIZE_TEXT_BYTES];
		result = hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				    "cannot give back %llu huge pages of %s: the pool holds %llu; somebody "
				    "else has lowered it",
				    (unsigned long long)added, hf_size_text(page_size_bytes, size),
				    (unsigned long long)persistent(&counts));
	}
	if (!result)
		result = pool_write(fd, page_size_bytes, persistent(&counts) - added, err);
	close(fd);
	return result;
}

/* ---- mounts ---- */

static bool is_mount_of(const char *path, uint64_t page_size_bytes)
{
	struct statfs fs;
	return path && !statfs(path, &fs) && fs.f_type == HUGETLBFS_MAGIC &&
	       (uint64_t)fs.f_bsize == page_size_bytes && !access(path, W_OK | X_OK);
}

// Mount tables write space, tab, newline and backslash as \ooo.
static void unescape(char *path)
{
	char *to = path;
	for (const char *from = path; *from; to++) {
		if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] >= '0' && from[2] <= '7' &&
		    from[3] >= '0' && from[3] <= '7') {
			*to = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
			from += 4;
		} else {
			*to = *from++;
		}
	}
	*to = '\0';
}

// libhugetlbfs read the mount table when it was loaded; this reads it now. The caller frees the path.
static char *find_mount_now(uint64_t page_size_bytes)
{
	FILE *mounts = fopen("/proc/self/mounts", "re");
	if (!mounts)
		return NULL;
	char *line = NULL, *found = NULL;
	size_t capacity = 0;
	while (!found && getline(&line, &capacity, mounts) > 0) {
		char *rest = NULL;
		char *device = strtok_r(line, " ", &rest);
		char *path = device ? strtok_r(NULL, " ", &rest) : NULL;
		char *type = path ? strtok_r(NULL, " ", &rest) : NULL;
		if (!type || strcmp(type, "hugetlbfs"))
			continue;
		unescape(path);
		if (is_mount_of(path, page_size_bytes))
			found = strdup(path);
	}
	free(line);
	fclose(mounts);
	return found;
}

static int copy_path(const char *from, char *path, size_t path_bytes, struct hf_err *err)
{
	size_t length = strlen(from);
	if (length >= path_bytes)
		return hf_err_set(err, HF_ERR_LOCAL, ENAMETOOLONG,
				  "the path of the hugetlbfs mount '%s' is too long", from);
	memcpy(path, from, length + 1);
	return 0;
}

int hf_hugetlbfs_mount_point(uint64_t page_size_bytes, char *path, size_t path_bytes, struct hf_err *err)
{
	const char *known = hugetlbfs_find_path_for_size((long)page_size_bytes);
	if (is_mount_of(known, page_size_bytes))
		return copy_path(known, path, path_bytes, err);
	char *found = find_mount_now(page_size_bytes);
	if (found) {
		int result = copy_path(found, path, path_bytes, err);
		free(found);
		return result;
	}
	struct hf_hugepage_counts counts;
	int result = hf_hugepage_counts(page_size_bytes, &counts, err);
	if (result)
		return result;
	char size[HF_SIZE_TEXT_BYTES];
	unsigned long long kib = page_size_bytes / 1024;
	return hf_err_set(err, HF_ERR_LOCAL, ENOENT,
			  "no hugetlbfs for %s pages is mounted (or none that this user may write to); mount "
			  "one with: mkdir -p /dev/hugepages-%lluK && mount -t hugetlbfs -o pagesize=%lluK "
			  "hugetlbfs /dev/hugepages-%lluK",
			  hf_size_text(page_size_bytes, size), kib, kib, kib);
}
