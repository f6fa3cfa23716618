/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * hugetlbfs has no SEEK_HOLE and no cachestat(); mincore() is all there is, and on huge pages it has a trap.
 * Where the page tables reach down to the entry of a page, mincore() tells what the entry says, which is
 * "absent" for a page that only other mappings have touched. Where they do not, it asks the page cache. So a
 * scan makes a mapping of its own that nothing touches, alone in the address range that one page table of
 * huge-page entries covers (512 entries with 4 KiB tables): 1 GiB for 2 MiB pages, 512 GiB for 1 GiB pages.
 * Address space costs nothing.
 *
 * That is knowledge of the kernel's inside, so it is checked: a hugetlbfs inode counts its pages in
 * st_blocks exactly. A scan that finds fewer says so (`accounted` above `present`), and the callers refuse to
 * take what was not found for holes. The same count answers the two common cases (no page at all, every
 * page) with one fstat().
 */
#include "hugemem/residency.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "core/ramblock.h"
#include "core/text.h"
#include "hugemem/kernel_compat.h"
#include "hugemem/process_stat.h"

#define ENTRIES_PER_PAGE_TABLE 512u
#define STAT_BLOCK_BYTES       512u
#define PAGEMAP_PRESENT	       (1ull << 63)
#define PAGEMAP_SWAPPED	       (1ull << 62)
#define REGIONS_AT_ONCE	       64u
#define SMAPS_BUFFER_BYTES     65536u

/* ---- a process's mappings ---- */

static int parse_mapping(const char *line, struct hf_vmm_mapping *out)
{
	char permissions[5];
	unsigned major_number, minor_number;
	uint64_t inode;
	struct hf_vmm_mapping mapping = {0};

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &mapping.start,
		   &mapping.end, permissions, &mapping.offset_bytes, &major_number, &minor_number,
		   &inode) != 7)
		return -EBADMSG;
	mapping.device = makedev(major_number, minor_number);
	mapping.inode = inode;
	mapping.shared = permissions[3] == 's';
	mapping.writable = permissions[1] == 'w';
	*out = mapping;
	return 0;
}

static int append_mapping(struct hf_vmm_mappings *mappings, const struct hf_vmm_mapping *mapping)
{
	if ((mappings->count & (mappings->count - 1)) == 0) {
		size_t capacity = mappings->count ? 2 * mappings->count : 1;
		void *grown = reallocarray(mappings->list, capacity, sizeof(*mappings->list));
		if (!grown)
			return -ENOMEM;
		mappings->list = grown;
	}
	mappings->list[mappings->count++] = *mapping;
	return 0;
}

/* Is this a line about the mapping before it ("VmFlags: rd wr ...")? */
static bool is_property(const char *line)
{
	size_t word = strcspn(line, " \n");

	return word > 0 && line[word - 1] == ':';
}

/* Registered for missing or minor faults: what is absent there is not zeros but has yet to come. */
static void take_flags(const char *line, struct hf_vmm_mapping *mapping)
{
	mapping->missing_faults = strstr(line, " um");
	mapping->minor_faults = strstr(line, " ui");
	mapping->waits_for_pages = mapping->missing_faults || mapping->minor_faults;
	mapping->tracks_writes = strstr(line, " uw");
}

static void take_property(const char *line, struct hf_vmm_mapping *mapping)
{
	uint64_t kib;

	if (strncmp(line, "VmFlags:", 8) == 0)
		take_flags(line, mapping);
	if (sscanf(line, "KernelPageSize: %" SCNu64 " kB", &kib) == 1)
		mapping->page_size_bytes = kib * 1024;
}

static int read_mappings(FILE *file, struct hf_vmm_mappings *mappings)
{
	char *line = NULL;
	size_t line_bytes = 0;
	int result = 0;

	while (result == 0 && getline(&line, &line_bytes, file) > 0) {
		struct hf_vmm_mapping mapping = {0};
		if (is_property(line)) {
			if (mappings->count > 0)
				take_property(line, &mappings->list[mappings->count - 1]);
			continue;
		}
		result = parse_mapping(line, &mapping);
		if (result == 0)
			result = append_mapping(mappings, &mapping);
	}
	if (result == 0 && ferror(file))
		result = -EIO;
	free(line);
	return result;
}

int hf_vmm_mappings_load(pid_t pid, struct hf_vmm_mappings *out, struct hf_err *err)
{
	char path[64];
	struct hf_vmm_mappings mappings = {0};

	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	FILE *file = fopen(path, "re");
	if (file) /* each read looks up its place in the list anew */
		setvbuf(file, NULL, _IOFBF, SMAPS_BUFFER_BYTES);
	int result = file ? read_mappings(file, &mappings) : -errno;
	if (file)
		fclose(file);
	if (result) {
		hf_vmm_mappings_free(&mappings);
		return hf_err_set(err, HF_ERR_LOCAL, -result,
				  "cannot read the memory map of the VMM (%s): %s; is it running, and does "
				  "Hugeferry run as root or with CAP_SYS_PTRACE?",
				  path, strerror(-result));
	}
	*out = mappings;
	return 0;
}

void hf_vmm_mappings_free(struct hf_vmm_mappings *mappings)
{
	free(mappings->list);
	*mappings = (struct hf_vmm_mappings){0};
}

bool hf_vmm_mapping_is_of(const struct hf_vmm_mapping *mapping, const struct stat *file)
{
	return mapping->device == file->st_dev && mapping->inode == file->st_ino;
}

static bool is_of(const struct hf_vmm_mapping *mapping, const struct stat *file, bool to_write)
{
	return hf_vmm_mapping_is_of(mapping, file) && (!to_write || (mapping->writable && mapping->shared));
}

/* 1, 0, -EACCES: may not be looked into. A process that has ended meanwhile has nothing mapped. */
static int process_maps(pid_t pid, const struct stat *file, bool to_write)
{
	char path[64];
	struct hf_vmm_mappings mappings = {0};

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	FILE *maps = fopen(path, "re");
	if (!maps)
		return errno == EPERM ? -EACCES : errno == ENOENT || errno == ESRCH ? 0 : -errno;
	int result = read_mappings(maps, &mappings);
	fclose(maps);
	for (size_t i = 0; i < mappings.count && result == 0; i++)
		result = is_of(&mappings.list[i], file, to_write);
	hf_vmm_mappings_free(&mappings);
	return result == -EIO ? 0 : result;
}

/* The first process that has it mapped, or may have; 0: none. */
static pid_t find_other(const struct stat *file, pid_t vmm_pid, bool to_write, bool doubt)
{
	DIR *processes = opendir("/proc");
	const struct dirent *entry;
	pid_t found = 0;

	if (!processes)
		return -errno;
	while (!found && (entry = readdir(processes))) {
		pid_t pid = isdigit((unsigned char)entry->d_name[0]) ? (pid_t)atoi(entry->d_name) : 0;
		if (!pid || pid == vmm_pid || pid == getpid())
			continue;
		int result = process_maps(pid, file, to_write);
		if (result == 1 || (result == -EACCES && doubt))
			found = pid;
		else if (result < 0 && result != -EACCES)
			found = result;
	}
	closedir(processes);
	return found;
}

int hf_file_mapped_by_others(const struct stat *file, pid_t vmm_pid)
{
	pid_t other = find_other(file, vmm_pid, false, true);

	return other > 0 ? 1 : other;
}

int hf_file_check_unshared(int fd, pid_t vmm_pid, struct hf_err *err)
{
	struct hf_process_stat process;
	struct stat file;

	if (fstat(fd, &file))
		return hf_err_set(err, HF_ERR_LOCAL, errno, "its RAM file: %s", strerror(errno));
	pid_t other = find_other(&file, vmm_pid, true, false);
	if (other < 0)
		return hf_err_set(err, HF_ERR_LOCAL, -other, "cannot see who else maps its RAM file: %s",
				  strerror(-other));
	if (!other)
		return 0;
	/* Any process may call itself anything. */
	if (hf_process_stat(other, &process) ||
	    !hf_text_is_printable((const uint8_t *)process.name, strlen(process.name)))
		snprintf(process.name, sizeof(process.name), "?");
	return hf_err_set(err, HF_ERR_LOCAL, EBUSY, "process %d (%s) maps its RAM file too, to write to it",
			  (int)other, process.name);
}

int hf_vmm_pagemap_open(pid_t pid, int *pagemap_fd, struct hf_err *err)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return hf_err_set(
		    err, HF_ERR_LOCAL, errno,
		    "cannot open %s: %s; is the VMM running, and does Hugeferry run as root or with "
		    "CAP_SYS_PTRACE?",
		    path, strerror(errno));
	*pagemap_fd = fd;
	return 0;
}

int hf_vmm_page_mapped(int pagemap_fd, uint64_t address)
{
	uint64_t entry;
	uint64_t base_page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	off_t position = (off_t)(address / base_page_bytes * sizeof(entry));
	ssize_t got = pread(pagemap_fd, &entry, sizeof(entry), position);

	if (got < 0)
		return -errno;
	if (got != sizeof(entry))
		return -ESRCH;
	return (entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)) != 0;
}

/* -ENOTTY where the kernel has no PAGEMAP_SCAN. */
static int scan_mapped(int pagemap_fd, uint64_t start, uint64_t end,
		       void (*found)(void *opaque, uint64_t start, uint64_t end), void *opaque)
{
	struct page_region regions[REGIONS_AT_ONCE];

	while (start < end) {
		struct pm_scan_arg scan = {.size = sizeof(scan),
					   .start = start,
					   .end = end,
					   .vec = (uintptr_t)regions,
					   .vec_len = REGIONS_AT_ONCE,
					   .category_mask = PAGE_IS_PRESENT,
					   .return_mask = PAGE_IS_PRESENT};
		int count = ioctl(pagemap_fd, PAGEMAP_SCAN, &scan);
		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return -errno;
		for (int i = 0; i < count; i++)
			found(opaque, regions[i].start, regions[i].end);
		if (scan.walk_end <= start)
			return -EIO;
		start = scan.walk_end;
	}
	return 0;
}

static int ask_mapped(int pagemap_fd, uint64_t start, uint64_t end, uint64_t page_size_bytes,
		      void (*found)(void *opaque, uint64_t start, uint64_t end), void *opaque)
{
	for (uint64_t at = start; at < end; at += page_size_bytes) {
		int mapped = hf_vmm_page_mapped(pagemap_fd, at);
		if (mapped < 0)
			return mapped == -ESRCH ? 0 : mapped;
		if (mapped)
			found(opaque, at, at + page_size_bytes);
	}
	return 0;
}

int hf_vmm_pages_mapped(int pagemap_fd, uint64_t start, uint64_t end, uint64_t page_size_bytes,
			void (*found)(void *opaque, uint64_t start, uint64_t end), void *opaque)
{
	int result = scan_mapped(pagemap_fd, start, end, found, opaque);

	if (result == -ENOTTY)
		return ask_mapped(pagemap_fd, start, end, page_size_bytes, found, opaque);
	return result == -ESRCH ? 0 : result;
}

/* ---- a file's pages ---- */

int hf_file_pages_accounted(int fd, uint64_t page_size_bytes, uint64_t *pages)
{
	struct stat file;

	if (fstat(fd, &file))
		return -errno;
	*pages = (uint64_t)file.st_blocks / (page_size_bytes / STAT_BLOCK_BYTES);
	return 0;
}

struct probe_mapping {
	void *reserved;
	size_t reserved_bytes;
	uint8_t *address; /* of the file's first byte */
};

static int probe_map(int fd, uint64_t length_bytes, uint64_t page_size_bytes, struct probe_mapping *out)
{
	uint64_t table_bytes = page_size_bytes * ENTRIES_PER_PAGE_TABLE;
	uint64_t reserved_bytes;

	/* Whole tables that nothing else is mapped in, wherever the reservation happens to begin. */
	if (__builtin_add_overflow(length_bytes, 2 * table_bytes, &reserved_bytes))
		return -EOVERFLOW;
	void *reserved =
	    mmap(NULL, reserved_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (reserved == MAP_FAILED)
		return -errno;
	uint64_t aligned = ((uintptr_t)reserved + table_bytes - 1) & ~(table_bytes - 1);
	void *address = mmap((void *)(uintptr_t)aligned, length_bytes, PROT_READ,
			     MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0);
	if (address == MAP_FAILED) {
		int errnum = errno;
		munmap(reserved, reserved_bytes);
		return -errnum;
	}
	*out = (struct probe_mapping){reserved, reserved_bytes, address};
	return 0;
}

static void set_bit(struct hf_file_pages *pages, uint64_t page)
{
	pages->bits[page / 8] |= (uint8_t)(1u << page % 8);
	pages->present++;
}

static int probe_pages(const struct probe_mapping *mapping, uint64_t page_size_bytes,
		       struct hf_file_pages *pages)
{
	for (uint64_t page = 0; page < pages->pages; page++) {
		unsigned char in_memory = 0;
		if (mincore(mapping->address + page * page_size_bytes, 1, &in_memory))
			return -errno;
		if (in_memory & 1)
			set_bit(pages, page);
	}
	return 0;
}

static int scan_by_mapping(int fd, uint64_t page_size_bytes, struct hf_file_pages *pages)
{
	struct probe_mapping mapping = {0};

	int result = probe_map(fd, pages->pages * page_size_bytes, page_size_bytes, &mapping);
	if (result)
		return result;
	result = probe_pages(&mapping, page_size_bytes, pages);
	munmap(mapping.reserved, mapping.reserved_bytes);
	return result;
}

static int scan(int fd, uint64_t page_size_bytes, struct hf_file_pages *pages)
{
	struct stat file;

	if (fstat(fd, &file))
		return -errno;
	if (file.st_size <= 0 || (uint64_t)file.st_size % page_size_bytes)
		return -EINVAL;
	pages->pages = (uint64_t)file.st_size / page_size_bytes;
	if (pages->pages > HF_PAGES_MAX)
		return -EFBIG;
	pages->accounted = (uint64_t)file.st_blocks / (page_size_bytes / STAT_BLOCK_BYTES);
	pages->bits = calloc(pages->pages / 8 + 1, 1);
	if (!pages->bits)
		return -ENOMEM;
	if (pages->accounted == 0)
		return 0;
	if (pages->accounted < pages->pages)
		return scan_by_mapping(fd, page_size_bytes, pages);
	for (uint64_t page = 0; page < pages->pages; page++)
		set_bit(pages, page);
	return 0;
}

int hf_file_pages_scan(int fd, uint64_t page_size_bytes, struct hf_file_pages *out, struct hf_err *err)
{
	struct hf_file_pages pages = {0};

	int result = scan(fd, page_size_bytes, &pages);
	if (result) {
		hf_file_pages_free(&pages);
		return hf_err_set(err, HF_ERR_LOCAL, -result, "cannot find the pages of the RAM file: %s",
				  strerror(-result));
	}
	*out = pages;
	return 0;
}

void hf_file_pages_free(struct hf_file_pages *pages)
{
	free(pages->bits);
	*pages = (struct hf_file_pages){0};
}

bool hf_file_page_present(const struct hf_file_pages *pages, uint64_t page)
{
	return page < pages->pages && (pages->bits[page / 8] >> page % 8 & 1);
}
