/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The workspace. Theory of operation: taken in the order namespace, folder, mount, pages; given back in the
 * reverse order. Without the right to make a mount namespace a mount that exists is used.
 *
 * The kernel ties a raised pool of huge pages to no process, so a keeper does: a child that reads from a pipe
 * nobody writes to before the workspace is closed. All other children inherit the writing end. So an end of
 * file means that this process was killed and all of them with it (children.c), and that their memory is
 * free: a pool that is lowered while its pages are being freed may keep them.
 */
#include "deploy/workspace.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/ramblock.h"
#include "hugemem/hugepool.h"

#define SPARE_BYTES (512ull << 20) /* left to the rest of the host */

static int failed(struct hf_err *err, const char *what, const char *path)
{
	int errnum = errno;
	return hf_err_set(err, HF_ERR_LOCAL, errnum, "%s %s: %s", what, path, strerror(errnum));
}

static int make_folder(struct hf_workspace *workspace, struct hf_err *err)
{
	snprintf(workspace->folder, sizeof(workspace->folder), "/tmp/hugeferry-demo-XXXXXX");
	if (!mkdtemp(workspace->folder))
		return failed(err, "cannot make the folder", workspace->folder);
	workspace->has_folder = true;
	snprintf(workspace->runtime, sizeof(workspace->runtime), "%s", workspace->folder);
	return 0;
}

/* In the private mount namespace. Without it maps are kept in the folder, which may be slow. */
static void mount_runtime(struct hf_workspace *workspace)
{
	char path[sizeof(workspace->runtime)];
	snprintf(path, sizeof(path), "%s/run", workspace->folder);
	if (mkdir(path, 0700) ||
	    mount("hugeferry-demo", path, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700"))
		return;
	workspace->runtime_mounted = true;
	snprintf(workspace->runtime, sizeof(workspace->runtime), "%s", path);
}

static int mount_private(struct hf_workspace *workspace)
{
	char options[64];
	snprintf(workspace->huge, sizeof(workspace->huge), "%s/huge", workspace->folder);
	snprintf(options, sizeof(options), "pagesize=%" PRIu64 "K,mode=0700",
		 workspace->page_size_bytes >> 10);
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return -errno;
	if (mkdir(workspace->huge, 0700))
		return -errno;
	/* Without MS_NOEXEC: a VMM in user mode executes guest memory. */
	if (mount("hugeferry-demo", workspace->huge, "hugetlbfs", MS_NOSUID | MS_NODEV, options))
		return -errno;
	workspace->mounted = true;
	mount_runtime(workspace);
	return 0;
}

static int find_hugetlbfs(struct hf_workspace *workspace, struct hf_err *err)
{
	int result = mount_private(workspace);
	if (!result)
		return 0;
	if (result != -EPERM)
		return hf_err_set(err, HF_ERR_LOCAL, -result, "cannot mount a hugetlbfs on %s: %s",
				  workspace->huge, strerror(-result));
	return hf_hugetlbfs_mount_point(workspace->page_size_bytes, workspace->huge, sizeof(workspace->huge),
					err);
}

static uint64_t memory_available_bytes(void)
{
	char line[128];
	uint64_t kib = 0;
	FILE *file = fopen("/proc/meminfo", "re");
	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
			break;
	}
	if (file)
		fclose(file);
	return kib << 10;
}

/* The kernel would squeeze the whole host before it says no, so the wish is checked first. */
static int check_memory(uint64_t page_size_bytes, uint64_t pages, struct hf_err *err)
{
	struct hf_hugepage_counts counts;
	char size[HF_SIZE_TEXT_BYTES];
	int result = hf_hugepage_counts(page_size_bytes, &counts, err);
	if (result)
		return result;
	uint64_t there = hf_hugepages_available(&counts);
	uint64_t missing = pages > there ? pages - there : 0;
	uint64_t memory = memory_available_bytes();
	uint64_t spare = memory > SPARE_BYTES ? memory - SPARE_BYTES : 0;
	if (missing <= spare / page_size_bytes)
		return 0;
	return hf_err_set(
	    err, HF_ERR_LOCAL, ENOMEM,
	    "%" PRIu64 " more huge pages of %s are needed, but this host can spare only %" PRIu64 " (%" PRIu64
	    " MiB of memory are free); take less --mem",
	    missing, hf_size_text(page_size_bytes, size), spare / page_size_bytes, memory >> 20);
}

static void name_ram_files(struct hf_workspace *workspace)
{
	for (int i = 0; i < 2; i++)
		snprintf(workspace->ram[i], sizeof(workspace->ram[i]), "%s/hugeferry-demo-%d-%d.ram",
			 workspace->huge, (int)getpid(), i);
}

/* Holds neither a terminal nor a pipe that somebody waits to see closed. */
static void let_go_of_others(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	setsid();
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		dup2(null, fd);
}

static void __attribute__((noreturn)) keep(struct hf_workspace *workspace, int fd)
{
	struct hf_err ignored;
	ssize_t got;
	char byte;
	let_go_of_others();
	do
		got = read(fd, &byte, 1);
	while (got < 0 && errno == EINTR);
	if (got == 0)
		hf_workspace_close(workspace, &ignored);
	_exit(0);
}

static int start_keeper(struct hf_workspace *workspace, struct hf_err *err)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) || fcntl(ends[1], F_SETFD, 0))
		return hf_err_set(err, HF_ERR_LOCAL, errno, "cannot make a pipe: %s", strerror(errno));
	pid_t pid = fork();
	int errnum = errno;
	if (pid == 0) {
		close(ends[1]);
		keep(workspace, ends[0]);
	}
	close(ends[0]);
	if (pid < 0) {
		close(ends[1]);
		return hf_err_set(err, HF_ERR_LOCAL, errnum, "cannot make a process: %s", strerror(errnum));
	}
	workspace->keeper = pid;
	workspace->keeper_fd = ends[1] + 1;
	return 0;
}

static void dismiss_keeper(struct hf_workspace *workspace)
{
	if (!workspace->keeper)
		return;
	ssize_t ignored = write(workspace->keeper_fd - 1, "", 1);
	(void)ignored; // a keeper that was killed reads nothing
	close(workspace->keeper_fd - 1);
	waitpid(workspace->keeper, NULL, 0);
	workspace->keeper = 0;
	workspace->keeper_fd = 0;
}

int hf_workspace_open(struct hf_workspace *workspace, uint64_t page_size_bytes, uint64_t pages,
		      struct hf_err *err)
{
	struct hf_err ignored;
	*workspace = (struct hf_workspace){.page_size_bytes = page_size_bytes};
	int result = check_memory(page_size_bytes, pages, err);
	if (!result)
		result = make_folder(workspace, err);
	if (!result)
		result = find_hugetlbfs(workspace, err);
	if (!result)
		name_ram_files(workspace);
	if (!result)
		result = hf_hugepages_reserve(page_size_bytes, pages, &workspace->pages_added, err);
	if (!result)
		result = start_keeper(workspace, err);
	if (result)
		hf_workspace_close(workspace, &ignored);
	return result;
}

static void empty_folder(const char *folder)
{
	DIR *directory = opendir(folder);
	const struct dirent *entry;
	if (!directory)
		return;
	while ((entry = readdir(directory))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		// AT_REMOVEDIR for the mount point, which is empty by now.
		if (unlinkat(dirfd(directory), entry->d_name, 0) && errno == EISDIR)
			unlinkat(dirfd(directory), entry->d_name, AT_REMOVEDIR);
	}
	closedir(directory);
}

int hf_workspace_close(struct hf_workspace *workspace, struct hf_err *err)
{
	int result = 0;
	for (int i = 0; i < 2 && workspace->ram[i][0]; i++)
		unlink(workspace->ram[i]); // a killed VMM leaves it
	if (workspace->mounted && umount2(workspace->huge, MNT_DETACH))
		result = failed(err, "cannot unmount", workspace->huge);
	workspace->mounted = false;
	if (workspace->runtime_mounted && umount2(workspace->runtime, MNT_DETACH) && !result)
		result = failed(err, "cannot unmount", workspace->runtime);
	workspace->runtime_mounted = false;
	if (workspace->has_folder) {
		empty_folder(workspace->folder);
		if (rmdir(workspace->folder) && !result)
			result = failed(err, "cannot remove", workspace->folder);
	}
	workspace->has_folder = false;
	if (workspace->pages_added) {
		int given = hf_hugepages_give_back(workspace->page_size_bytes, workspace->pages_added, err);
		result = result ? result : given;
	}
	workspace->pages_added = 0;
	dismiss_keeper(workspace);
	return result;
}
