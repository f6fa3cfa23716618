/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation.
 *
 * The VMM's threads only fill the list of regions and wait; after start everything happens in one thread
 * ("hf-attach") that polls three descriptors: an eventfd that ends it, the listening socket, and the one
 * agent that is connected. An agent may be idle for hours, but a line it has begun must end, and an answer it
 * asked for must be read, within HF_ATTACH_TIMEOUT_MS; otherwise it is dropped. So no agent can keep the
 * thread, and the thread never waits without also watching the eventfd. Whoever connects while an agent is
 * there, or is neither root nor our own user, gets one line with the reason and is closed.
 *
 * Dropping an agent changes nothing about the memory; see attach_session.c.
 *
 *     nobody --accept--> agent --EOF, error, time-out, bad line--> nobody
 */
#include "hugemem/attach.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/text.h"
#include "hugemem/attach_internal.h"
#include "hugemem/attach_mapping.h"

#define LISTEN_AGAIN_MS 200

/* ---- creation ---- */

static int check_name(const char *vm_name, struct hf_err *err)
{
	size_t length = strlen(vm_name);
	if (length && length <= HF_RAMBLOCK_IDSTR_MAX &&
	    hf_text_is_printable((const uint8_t *)vm_name, length))
		return 0;
	return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "the VM's name must have 1 to %d printable bytes",
			  HF_RAMBLOCK_IDSTR_MAX);
}

int hf_attach_create(struct hf_attach **out, const struct hf_attach_options *options, struct hf_err *err)
{
	struct sockaddr_un address;
	int result = hf_attach_wire_address(&address, options->socket_path, err);
	if (!result)
		result = check_name(options->vm_name, err);
	if (result)
		return result;
	struct hf_attach *attach = calloc(1, sizeof(*attach));
	if (!attach)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory for the attach library");
	hf_lock_init(&attach->lock, "hf_attach.lock", HF_RANK_ATTACH);
	hf_cond_init(&attach->armed_changed);
	hf_ramblocks_init(&attach->blocks);
	attach->more_regions = options->more_regions;
	attach->opaque = options->opaque;
	attach->agent.socket = attach->listener = attach->userfault = -1;
	attach->agent.process = attach->holder = HF_AGENT_PROCESS_NONE;
	attach->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int why = attach->stop_fd < 0 ? errno : ENOMEM;
	attach->vm_name = strdup(options->vm_name);
	attach->socket_path = strdup(options->socket_path);
	if (attach->stop_fd < 0 || !attach->vm_name || !attach->socket_path) {
		hf_attach_destroy(attach);
		return hf_err_set(err, HF_ERR_LOCAL, why, "cannot set up the attach library: %s",
				  strerror(why));
	}
	*out = attach;
	return 0;
}

/* ---- regions ---- */

static int check_region(const struct hf_attach_region *region, struct hf_err *err)
{
	uint64_t address = (uint64_t)(uintptr_t)region->address, mask = region->page_size_bytes - 1;
	if (region->page_size_bytes & mask || !region->page_size_bytes)
		return 0; // hf_ramblocks_add() says it better
	if (!address || address & mask)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "region '%s' does not start at a page boundary",
				  region->idstr);
	if (address + region->length_bytes < address)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "region '%s' wraps around the address space",
				  region->idstr);
	if (region->fd < 0 && region->fd_offset_bytes)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "region '%s' is private memory and has an offset into a file",
				  region->idstr);
	if (region->fd_offset_bytes & mask || region->fd_offset_bytes > INT64_MAX - region->length_bytes)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "region '%s': offset %llu into its file is no page boundary, or too large",
				  region->idstr, (unsigned long long)region->fd_offset_bytes);
	return 0;
}

static int check_overlap(const struct hf_attach *attach, const struct hf_attach_region *region,
			 struct hf_err *err)
{
	uint64_t address = (uint64_t)(uintptr_t)region->address;
	for (uint32_t i = 0; i < attach->blocks.count; i++) {
		uint64_t other = attach->memory[i].address;
		if (address < other + attach->blocks.blocks[i].length_bytes &&
		    other < address + region->length_bytes)
			return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "region '%s' overlaps region '%s'",
					  region->idstr, attach->blocks.blocks[i].idstr);
	}
	return 0;
}

// The registry has no removal: the new list is built apart and takes the old one's place at the end.
static int add_block(struct hf_attach *attach, const struct hf_attach_region *region,
		     struct hf_ramblocks *blocks, struct hf_err *err)
{
	int result = hf_ramblocks_copy(blocks, &attach->blocks, err);
	if (!result)
		result = hf_ramblocks_add(blocks, region->idstr, region->length_bytes,
					  region->page_size_bytes, err);
	if (!result)
		result = check_overlap(attach, region, err);
	if (!result)
		result = hf_attach_mapping_check(region, err);
	return result;
}

static int keep_memory(const struct hf_attach_region *region, struct hf_attach_memory *memory,
		       struct hf_err *err)
{
	int fd = -1;
	if (region->fd >= 0) {
		fd = fcntl(region->fd, F_DUPFD_CLOEXEC, 0);
		if (fd < 0)
			return hf_err_set(err, HF_ERR_LOCAL, errno, "region '%s': cannot keep its file: %s",
					  region->idstr, strerror(errno));
	}
	// A forked child would see half-filled pages and zeros: it has no userfaultfd.
	if (madvise(region->address, region->length_bytes, MADV_DONTFORK)) {
		int why = errno;
		if (fd >= 0)
			close(fd);
		return hf_err_set(err, HF_ERR_LOCAL, why, "region '%s' cannot be kept from forks: %s",
				  region->idstr, strerror(why));
	}
	*memory = (struct hf_attach_memory){.address = (uint64_t)(uintptr_t)region->address,
					    .fd_offset_bytes = region->fd_offset_bytes,
					    .fd = fd};
	return 0;
}

int hf_attach_add(struct hf_attach *attach, const struct hf_attach_region *region, struct hf_err *err)
{
	if (attach->started && !attach->adding)
		return hf_err_set(err, HF_ERR_LOCAL, EBUSY, "region '%s' comes too late: add before start",
				  region->idstr);
	if (attach->blocks.count == HF_RAMBLOCKS_MAX)
		return hf_err_set(err, HF_ERR_LOCAL, ENOSPC, "region '%s' is one too many: at most %d",
				  region->idstr, HF_RAMBLOCKS_MAX);
	struct hf_ramblocks blocks;
	hf_ramblocks_init(&blocks);
	int result = check_region(region, err);
	if (!result)
		result = add_block(attach, region, &blocks, err);
	if (!result)
		result = keep_memory(region, &attach->memory[attach->blocks.count], err);
	if (result) {
		hf_ramblocks_destroy(&blocks);
		return result;
	}
	hf_ramblocks_destroy(&attach->blocks);
	attach->blocks = blocks;
	return 0;
}

/* ---- the agent's connection ---- */

static void drop_agent(struct hf_attach *attach)
{
	if (attach->agent.socket >= 0)
		close(attach->agent.socket);
	attach->agent.socket = -1;
	hf_agent_process_close(&attach->agent.process);
	attach->agent.greeted = false;
	attach->agent.used = 0;
	attach->agent.line_deadline_ns = 0;
}

static int take_lines(struct hf_attach *attach)
{
	struct hf_attach_agent *agent = &attach->agent;
	char *start = agent->buffer, *end = agent->buffer + agent->used, *newline;
	int result = 0;
	while (!result && (newline = memchr(start, '\n', (size_t)(end - start)))) {
		result = hf_attach_session_line(attach, start, (size_t)(newline - start));
		start = newline + 1;
		agent->line_deadline_ns = 0;
	}
	agent->used = (size_t)(end - start);
	memmove(agent->buffer, start, agent->used);
	if (result)
		return result;
	if (agent->used == sizeof(agent->buffer)) {
		hf_attach_session_refuse(agent->socket, "invalid", "the request is longer than 65536 bytes");
		return -EMSGSIZE;
	}
	if (agent->used && !agent->line_deadline_ns)
		agent->line_deadline_ns = hf_attach_deadline_ns(HF_ATTACH_TIMEOUT_MS);
	return 0;
}

// Descriptors an agent might send are not asked for, so the kernel closes them.
static void serve_agent(struct hf_attach *attach)
{
	struct hf_attach_agent *agent = &attach->agent;
	ssize_t n = recv(agent->socket, agent->buffer + agent->used, sizeof(agent->buffer) - agent->used,
			 MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0) {
		agent->used += (size_t)n;
		if (!take_lines(attach))
			return;
	}
	drop_agent(attach);
}

static void accept_agent(struct hf_attach *attach)
{
	int socket = accept4(attach->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (socket < 0) {
		// The connection stays in the queue and poll() would return at once: look away for a while.
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			attach->listen_again_ns = hf_attach_deadline_ns(LISTEN_AGAIN_MS);
		return;
	}
	pid_t pid;
	struct hf_err err = HF_ERR_INIT;
	if (hf_attach_wire_peer(socket, &pid, &err)) {
		hf_attach_session_refuse(socket, "refused", err.text);
		close(socket);
	} else if (attach->agent.socket >= 0) {
		hf_attach_session_refuse(socket, "busy",
					 "another agent is connected to this VM; one at a time");
		close(socket);
	} else {
		/* One that cannot be watched is told so when it asks for the userfaultfd. */
		hf_agent_process_of(socket, pid, &attach->agent.process);
		attach->agent.socket = socket;
	}
}

static int poll_timeout_ms(const struct hf_attach *attach)
{
	uint64_t next_ns = UINT64_MAX;
	if (attach->agent.line_deadline_ns)
		next_ns = attach->agent.line_deadline_ns;
	if (attach->listen_again_ns && attach->listen_again_ns < next_ns)
		next_ns = attach->listen_again_ns;
	if (next_ns == UINT64_MAX)
		return -1;
	uint64_t now_ns = hf_attach_now_ns();
	return now_ns >= next_ns ? 0 : (int)((next_ns - now_ns) / 1000000 + 1);
}

static void *attach_thread(void *opaque)
{
	struct hf_attach *attach = opaque;
	for (;;) {
		struct pollfd polled[3] = {
		    {.fd = attach->stop_fd, .events = POLLIN},
		    {.fd = attach->agent.socket, .events = POLLIN},
		    {.fd = attach->listen_again_ns ? -1 : attach->listener, .events = POLLIN},
		};
		int n = poll(polled, 3, poll_timeout_ms(attach));
		if (n < 0 && errno != EINTR && errno != ENOMEM)
			break;
		if (polled[0].revents)
			break;
		uint64_t now_ns = hf_attach_now_ns();
		if (now_ns >= attach->listen_again_ns)
			attach->listen_again_ns = 0;
		if (n <= 0)
			polled[1].revents = polled[2].revents = 0;
		// The agent first: where one has gone and the next has come, the next is not told "busy".
		if (polled[1].revents)
			serve_agent(attach);
		if (attach->agent.line_deadline_ns && now_ns >= attach->agent.line_deadline_ns)
			drop_agent(attach);
		if (polled[2].revents)
			accept_agent(attach);
	}
	drop_agent(attach);
	return NULL;
}

/* ---- start and end ---- */

static bool somebody_listens(const struct sockaddr_un *address)
{
	int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (probe < 0)
		return true; // cannot tell, so do not take it away
	int why = connect(probe, (const struct sockaddr *)address, sizeof(*address)) ? errno : 0;
	close(probe);
	return why != ECONNREFUSED && why != ENOENT;
}

static int remove_stale(const struct sockaddr_un *address, struct hf_err *err)
{
	struct stat there;
	if (lstat(address->sun_path, &there))
		return 0;
	if (!S_ISSOCK(there.st_mode))
		return hf_err_set(err, HF_ERR_LOCAL, EEXIST,
				  "attach socket '%s': a file that is no socket has this name; remove it",
				  address->sun_path);
	if (somebody_listens(address))
		return hf_err_set(
		    err, HF_ERR_LOCAL, EADDRINUSE,
		    "attach socket '%s' is in use by another process; give each VM its own path",
		    address->sun_path);
	unlink(address->sun_path);
	return 0;
}

static int listen_at(struct hf_attach *attach, struct hf_err *err)
{
	struct sockaddr_un address;
	int result = hf_attach_wire_address(&address, attach->socket_path, err);
	if (!result)
		result = remove_stale(&address, err);
	if (result)
		return result;
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct stat made;
	// The mode of the socket becomes the mode of its file, so there is no moment with a wider one.
	bool bound = listener >= 0 && !fchmod(listener, 0600) &&
		     !bind(listener, (struct sockaddr *)&address, sizeof(address));
	if (!bound || lstat(address.sun_path, &made) || listen(listener, 8)) {
		int why = errno;
		if (bound)
			unlink(address.sun_path);
		if (listener >= 0)
			close(listener);
		return hf_err_set(err, HF_ERR_LOCAL, why, "attach socket '%s': %s", attach->socket_path,
				  strerror(why));
	}
	attach->listener = listener;
	attach->socket_device = made.st_dev;
	attach->socket_inode = made.st_ino;
	return 0;
}

static void stop_listening(struct hf_attach *attach)
{
	struct stat there;
	if (attach->listener < 0)
		return;
	if (!lstat(attach->socket_path, &there) && there.st_dev == attach->socket_device &&
	    there.st_ino == attach->socket_inode)
		unlink(attach->socket_path);
	close(attach->listener);
	attach->listener = -1;
}

// The VMM's signals are for the VMM's threads.
static int start_thread(struct hf_attach *attach)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int result = pthread_create(&attach->thread, NULL, attach_thread, attach);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!result)
		pthread_setname_np(attach->thread, "hf-attach");
	return -result;
}

int hf_attach_start(struct hf_attach *attach, struct hf_err *err)
{
	if (attach->started)
		return hf_err_set(err, HF_ERR_LOCAL, EALREADY, "the attach library is started already");
	if (!attach->blocks.count && !attach->more_regions)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "no region was added: nothing to attach to");
	int result = listen_at(attach, err);
	if (result)
		return result;
	attach->started = true; // before the thread looks at it
	result = start_thread(attach);
	if (result) {
		attach->started = false;
		stop_listening(attach);
		return hf_err_set(err, HF_ERR_LOCAL, -result, "cannot start the attach thread: %s",
				  strerror(-result));
	}
	return 0;
}

bool hf_attach_armed(const struct hf_attach *attach)
{
	return atomic_load(&attach->armed);
}

int hf_attach_wait_armed(struct hf_attach *attach, uint32_t timeout_ms)
{
	uint64_t deadline_ns = hf_attach_deadline_ns(timeout_ms);
	int result = 0;
	hf_lock(&attach->lock);
	while (!result && !atomic_load(&attach->armed))
		result = hf_cond_wait_until(&attach->armed_changed, &attach->lock, deadline_ns);
	hf_unlock(&attach->lock);
	return result;
}

void hf_attach_destroy(struct hf_attach *attach)
{
	hf_lock_assert_may_stop(__func__);
	if (!attach)
		return;
	if (attach->started) {
		eventfd_write(attach->stop_fd, 1);
		pthread_join(attach->thread, NULL);
	}
	stop_listening(attach);
	if (attach->userfault >= 0)
		close(attach->userfault);
	hf_agent_process_close(&attach->holder);
	for (uint32_t i = 0; i < attach->blocks.count; i++)
		if (attach->memory[i].fd >= 0)
			close(attach->memory[i].fd);
	hf_ramblocks_destroy(&attach->blocks);
	if (attach->stop_fd >= 0)
		close(attach->stop_fd);
	hf_cond_destroy(&attach->armed_changed);
	hf_lock_destroy(&attach->lock);
	free(attach->vm_name);
	free(attach->socket_path);
	free(attach);
}
