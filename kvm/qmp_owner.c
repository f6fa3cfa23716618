/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation. The name of our peer is the name that was bound. /proc/PID/net/unix has the inodes of
 * all sockets with that name, the listening one and those it has accepted; /proc/PID/fd says which process
 * has one of them. All of this is the kernel's word, the VMM has no say in it.
 *
 * The process that SO_PEERCRED names is looked at first, and nearly always is the one. Only if it has no such
 * socket (any more) all processes are looked at, and then exactly one must have it.
 */
#include "kvm/qmp_owner.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKETS_MAX 64 /* of one name: one listens, others are its connections */

struct sockets {
	unsigned long inodes[SOCKETS_MAX];
	size_t count;
};

static int sockets_named(pid_t pid, const char *name, struct sockets *sockets)
{
	char path[64];
	char *line = NULL;
	size_t line_bytes = 0;
	sockets->count = 0;
	snprintf(path, sizeof(path), "/proc/%d/net/unix", (int)pid);
	FILE *file = fopen(path, "re");
	if (!file)
		return -errno;
	while (sockets->count < SOCKETS_MAX && getline(&line, &line_bytes, file) > 0) {
		unsigned long inode;
		int at = 0;
		line[strcspn(line, "\n")] = '\0';
		// NUM: REFCOUNT PROTOCOL FLAGS TYPE ST INODE PATH
		if (sscanf(line, "%*s %*s %*s %*s %*s %*s %lu %n", &inode, &at) == 1 && at &&
		    strcmp(line + at, name) == 0)
			sockets->inodes[sockets->count++] = inode;
	}
	free(line);
	fclose(file);
	return 0;
}

static bool is_one(const struct sockets *sockets, const char *link)
{
	unsigned long inode;
	if (sscanf(link, "socket:[%lu]", &inode) != 1)
		return false;
	for (size_t i = 0; i < sockets->count; i++) {
		if (sockets->inodes[i] == inode)
			return true;
	}
	return false;
}

/* 1: the process has one of them; 0: it has none; -errno. */
static int has_one(pid_t pid, const struct sockets *sockets)
{
	char path[64];
	const struct dirent *entry;
	int found = 0;
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	DIR *folder = opendir(path);
	if (!folder)
		return -errno;
	while (found == 0 && (entry = readdir(folder))) {
		char link[64];
		ssize_t bytes = readlinkat(dirfd(folder), entry->d_name, link, sizeof(link) - 1);
		// Without CAP_SYS_PTRACE the names are seen, and not where they lead.
		if (bytes < 0 && (errno == EACCES || errno == EPERM)) {
			found = -errno;
			break;
		}
		if (bytes <= 0)
			continue;
		link[bytes] = '\0';
		found = is_one(sockets, link);
	}
	closedir(folder);
	return found;
}

/* How many processes have one; *pid is the last of them. */
static unsigned search(const struct sockets *sockets, pid_t *pid)
{
	unsigned found = 0;
	const struct dirent *entry;
	DIR *folder = opendir("/proc");
	while (folder && (entry = readdir(folder))) {
		pid_t candidate = (pid_t)strtol(entry->d_name, NULL, 10);
		if (candidate > 0 && candidate != getpid() && has_one(candidate, sockets) == 1) {
			*pid = candidate;
			found++;
		}
	}
	if (folder)
		closedir(folder);
	return found;
}

/* As it is now: it may have given up being root since it called listen(). */
static void set_uid(struct ucred *owner)
{
	char path[64], line[128];
	unsigned real, effective;
	snprintf(path, sizeof(path), "/proc/%d/status", (int)owner->pid);
	FILE *file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "Uid: %u %u", &real, &effective) == 2)
			owner->uid = effective;
		else if (sscanf(line, "Gid: %u %u", &real, &effective) == 2)
			owner->gid = effective;
	}
	if (file)
		fclose(file);
}

int hf_qmp_owner(int fd, struct ucred *owner, struct hf_err *err)
{
	struct sockaddr_un name = {0};
	struct sockets sockets;
	socklen_t owner_bytes = sizeof(*owner), name_bytes = sizeof(name) - 1;
	pid_t found = 0;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, owner, &owner_bytes) < 0 ||
	    getpeername(fd, (struct sockaddr *)&name, &name_bytes) < 0)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "no credentials of the VMM: %s", strerror(errno));
	int r = sockets_named(owner->pid, name.sun_path, &sockets);
	if (r == 0)
		r = has_one(owner->pid, &sockets);
	if (r == 1 || r == -EACCES || r == -EPERM) {
		set_uid(owner);
		return 0;
	}
	if (sockets_named(getpid(), name.sun_path, &sockets) < 0 || search(&sockets, &found) != 1)
		return hf_err_set(
		    err, HF_ERR_LOCAL, ENXIO,
		    "it was made by process %d, which does not have it any more, and not exactly "
		    "one other process has it; let the VMM make it",
		    (int)owner->pid);
	owner->pid = found;
	set_uid(owner);
	return 0;
}
