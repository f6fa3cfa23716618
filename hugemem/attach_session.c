/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation.
 *
 * A registration outlives the agent that asked for it: the library keeps a duplicate of the userfaultfd, so
 * a page that was missing stays missing while the VMM lives. The kernel knows no way to move a range from one
 * userfaultfd to another without a moment in which it belongs to none, and whoever touches a missing page
 * in that moment, or waits for it and is woken by the unregistering, gets zeros for good. Therefore:
 *
 *   nothing registered                -> new descriptor, register
 *   same modes, features covered      -> duplicate of the kept descriptor, then WAKE of all ranges: faults
 * that a former agent has read and taken with it are raised again other modes, none of which guards ->
 * unregister, new descriptor (write tracking loses nothing missing pages                        that could
 * not be fetched again) other modes while missing pages   -> refused; the agent must say `release`, and so
 * that no page is missing are guarded
 *
 * Only features that cannot make the VMM wait for its agent or kill it are granted: an event feature would
 * block the VMM's own madvise() until somebody reads the event.
 */
#include "hugemem/attach_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <jansson.h>

#include "core/text.h"
#include "hugemem/attach_client.h"
#include "hugemem/kernel_compat.h"
#include "hugemem/uffd_open.h"
#include "hugemem/userfault.h"

#define GRANTED_FEATURES                                                                                     \
	((uint64_t)(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_HUGETLBFS |                        \
		    UFFD_FEATURE_MINOR_HUGETLBFS | UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_EXACT_ADDRESS |     \
		    UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_POISON |    \
		    UFFD_FEATURE_WP_ASYNC))
/* Processes that are ending have ended by then, and the thread serves nobody meanwhile. */
#define PREDECESSOR_WAIT_MS 3000u
#define GUARDS		    (HF_USERFAULT_MISSING | HF_USERFAULT_MINOR)

/* What a handler found out; sent, then released. */
struct answer {
	json_t *value; /* of "return" */
	const char *error_class;
	struct hf_err why;
	int fds[HF_ATTACH_FDS_MAX]; /* borrowed */
	uint32_t fd_count;
};

static void fail(struct answer *answer, const char *class, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void fail(struct answer *answer, const char *class, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	hf_err_vset(&answer->why, HF_ERR_LOCAL, EINVAL, format, args);
	va_end(args);
	answer->error_class = class;
}

/* ---- sending ---- */

static char *error_line(const char *class, const char *text)
{
	char printable[HF_ERR_TEXT_BYTES]; // the text may quote the request, and may be cut in mid-character
	hf_text_make_printable((const uint8_t *)text, strlen(text), printable, sizeof(printable));
	json_t *error = json_pack("{s:{s:s, s:s}}", "error", "class", class, "desc", printable);
	char *line = error ? json_dumps(error, JSON_COMPACT) : NULL;
	json_decref(error);
	return line;
}

void hf_attach_session_refuse(int socket, const char *class, const char *text)
{
	char *line = error_line(class, text);
	if (!line)
		return;
	struct iovec parts[2] = {{line, strlen(line)}, {(char[]){'\n'}, 1}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
	sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
	free(line);
}

static char *answer_line(struct answer *answer)
{
	if (answer->error_class)
		return error_line(answer->error_class, answer->why.text);
	json_t *whole = json_pack("{s:O, s:i}", "return", answer->value, "fds", (int)answer->fd_count);
	char *line = whole ? json_dumps(whole, JSON_COMPACT) : NULL;
	json_decref(whole);
	return line;
}

static int send_answer(struct hf_attach *attach, struct answer *answer)
{
	char *line = answer_line(answer);
	if (!line)
		return -ENOMEM;
	size_t length = strlen(line);
	line[length] = '\n'; // in place of the terminator
	int result = hf_attach_wire_send(attach->agent.socket, line, length + 1, answer->fds,
					 answer->error_class ? 0 : answer->fd_count,
					 hf_attach_deadline_ns(HF_ATTACH_TIMEOUT_MS), attach->stop_fd);
	free(line);
	return result;
}

/* ---- hello ---- */

static json_t *region_json(const struct hf_ramblock *block, const struct hf_attach_memory *memory)
{
	// page_size_kib holds bytes: Firecracker's clients know the misnomer.
	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:b}", "idstr", block->idstr, "base_host_virt_addr",
			 (json_int_t)memory->address, "size", (json_int_t)block->length_bytes, "offset",
			 (json_int_t)memory->fd_offset_bytes, "page_size", (json_int_t)block->page_size_bytes,
			 "page_size_kib", (json_int_t)block->page_size_bytes, "shared", memory->fd >= 0);
}

static void hello(struct hf_attach *attach, const json_t *request, struct answer *answer)
{
	const json_t *version = json_object_get(request, "version");
	if (!json_is_integer(version)) {
		fail(answer, "invalid", "hello needs an integer 'version'");
		return;
	}
	if (json_integer_value(version) != HF_ATTACH_VERSION) {
		fail(answer, "unsupported", "protocol version %lld is not spoken here, only %d",
		     (long long)json_integer_value(version), HF_ATTACH_VERSION);
		return;
	}
	if (attach->more_regions && attach->userfault < 0) {
		attach->adding = true;
		attach->more_regions(attach, attach->opaque);
		attach->adding = false;
	}
	json_t *regions = json_array();
	for (uint32_t i = 0; i < attach->blocks.count; i++) {
		json_array_append_new(regions, region_json(&attach->blocks.blocks[i], &attach->memory[i]));
		if (attach->memory[i].fd >= 0)
			answer->fds[answer->fd_count++] = attach->memory[i].fd;
	}
	if (json_array_size(regions) != attach->blocks.count) {
		json_decref(regions);
		return; // out of memory, as dispatch() will say
	}
	answer->value = json_pack("{s:i, s:s, s:s, s:i, s:o}", "version", HF_ATTACH_VERSION, "software",
				  "hugeferry " HF_VERSION, "vm_name", attach->vm_name, "pid", (int)getpid(),
				  "regions", regions);
	attach->agent.greeted = true;
}

/* ---- userfault ---- */

static unsigned mode_bit(const char *name)
{
	for (const struct hf_attach_mode *mode = hf_attach_modes; mode->name; mode++)
		if (!strcmp(mode->name, name))
			return mode->mode;
	return 0;
}

static void parse_modes(const json_t *list, unsigned *modes, struct answer *answer)
{
	if (!json_is_array(list) || !json_array_size(list)) {
		fail(answer, "invalid", "userfault needs 'modes', a list of at least one name");
		return;
	}
	for (size_t i = 0; i < json_array_size(list) && !answer->error_class; i++) {
		const char *name = json_string_value(json_array_get(list, i));
		unsigned bit = name ? mode_bit(name) : 0;
		if (!name)
			fail(answer, "invalid", "userfault: 'modes' must hold names");
		else if (!bit)
			fail(answer, "unsupported", "userfault: no mode '%.64s' here", name);
		*modes |= bit;
	}
}

static void parse_features(const json_t *list, uint64_t *features, struct answer *answer)
{
	if (!list)
		return;
	if (!json_is_array(list)) {
		fail(answer, "invalid", "userfault: 'features' must be a list of names");
		return;
	}
	for (size_t i = 0; i < json_array_size(list) && !answer->error_class; i++) {
		const char *name = json_string_value(json_array_get(list, i));
		uint64_t bit = name ? hf_uffd_feature_bit(name) : 0;
		if (!name)
			fail(answer, "invalid", "userfault: 'features' must hold names");
		else if (!bit)
			fail(answer, "unsupported", "userfault: no feature '%.64s' here", name);
		else if (!(bit & GRANTED_FEATURES))
			fail(answer, "unsupported",
			     "userfault: feature '%s' is not granted: the VMM could come to depend on its "
			     "agent being alive",
			     name);
		*features |= bit;
	}
}

static uint64_t features_of_modes(unsigned modes)
{
	uint64_t features = 0;
	if (modes & HF_USERFAULT_MISSING)
		features |= UFFD_FEATURE_MISSING_HUGETLBFS;
	if (modes & HF_USERFAULT_MINOR)
		features |= UFFD_FEATURE_MINOR_HUGETLBFS;
	if (modes & HF_USERFAULT_WP_ASYNC)
		features |= UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
			    UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC;
	return features;
}

static void check_private(const struct hf_attach *attach, unsigned modes, struct answer *answer)
{
	for (uint32_t i = 0; i < attach->blocks.count && modes & HF_USERFAULT_MINOR; i++) {
		if (attach->memory[i].fd >= 0)
			continue;
		fail(answer, "unsupported",
		     "region '%s' is private memory: mode 'minor' needs a shared mapping; ask for 'missing' "
		     "alone",
		     attach->blocks.blocks[i].idstr);
		return;
	}
}

static void set_armed(struct hf_attach *attach, bool armed)
{
	hf_lock(&attach->lock);
	atomic_store(&attach->armed, armed);
	hf_cond_broadcast(&attach->armed_changed);
	hf_unlock(&attach->lock);
}

static int unregister_all(struct hf_attach *attach, struct hf_err *err)
{
	int first = 0;
	set_armed(attach, false);
	for (uint32_t i = 0; i < attach->blocks.count; i++) {
		const struct hf_ramblock *block = &attach->blocks.blocks[i];
		int result = hf_userfault_unregister(attach->userfault, attach->memory[i].address,
						     block->length_bytes);
		if (result && !first)
			first =
			    hf_err_set(err, HF_ERR_LOCAL, -result, "region '%s' cannot be unregistered: %s",
				       block->idstr, strerror(-result));
	}
	close(attach->userfault);
	attach->userfault = -1;
	attach->modes = 0;
	attach->features = 0;
	return first;
}

static uint64_t register_modes(unsigned modes)
{
	return (modes & HF_USERFAULT_MISSING ? UFFDIO_REGISTER_MODE_MISSING : 0) |
	       (modes & HF_USERFAULT_MINOR ? UFFDIO_REGISTER_MODE_MINOR : 0) |
	       (modes & HF_USERFAULT_WP_ASYNC ? UFFDIO_REGISTER_MODE_WP : 0);
}

static int register_all(struct hf_attach *attach, int fd, unsigned modes, struct hf_err *err)
{
	for (uint32_t i = 0; i < attach->blocks.count; i++) {
		const struct hf_ramblock *block = &attach->blocks.blocks[i];
		int result = hf_userfault_register(fd, attach->memory[i].address, block->length_bytes,
						   register_modes(modes));
		if (result == -EBUSY)
			return hf_err_set(err, HF_ERR_LOCAL, EBUSY,
					  "region '%s' is registered with another userfaultfd; whoever made "
					  "that must close it first",
					  block->idstr);
		if (result)
			return hf_err_set(err, HF_ERR_LOCAL, -result, "region '%s' cannot be registered: %s",
					  block->idstr, strerror(-result));
	}
	return 0;
}

static void register_new(struct hf_attach *attach, unsigned modes, uint64_t features, struct answer *answer)
{
	int fd;
	int result = hf_uffd_open(&fd, features, &answer->why);
	if (result) {
		answer->error_class = result == -EOPNOTSUPP ? "unsupported" : "failed";
		return;
	}
	if (attach->userfault >= 0)
		unregister_all(attach, NULL); // closing the copy finishes what could not be unregistered
	result = register_all(attach, fd, modes, &answer->why);
	if (result) {
		close(fd); // takes with it what was registered
		answer->error_class = result == -EOPNOTSUPP ? "unsupported" : "failed";
		return;
	}
	attach->userfault = fd;
	attach->modes = modes;
	attach->features = features;
}

static void wake_all(struct hf_attach *attach)
{
	for (uint32_t i = 0; i < attach->blocks.count; i++)
		hf_userfault_wake(attach->userfault, attach->memory[i].address,
				  attach->blocks.blocks[i].length_bytes);
}

static void check_switch(const struct hf_attach *attach, unsigned modes, uint64_t features,
			 struct answer *answer)
{
	if (attach->userfault < 0 || !(attach->modes & GUARDS))
		return;
	char names[256] = "other modes";
	if (attach->modes == modes)
		hf_uffd_feature_names(features & ~attach->features, names, sizeof(names));
	fail(answer, "invalid",
	     "missing pages are guarded now and would read as zeros while this registration is replaced by "
	     "one "
	     "with %s; say 'release' first, when every page is there",
	     names);
}

/*
 * The one that had the userfaultfd before may have closed its connection and still write into guest memory,
 * so only its end lets another in. From here on the agent counts as the holder: an answer that cannot be sent
 * whole may have left its descriptor all the same.
 */
static void take_over(struct hf_attach *attach, struct answer *answer)
{
	const struct hf_agent_process *agent = &attach->agent.process;
	struct hf_agent_process *holder = &attach->holder;
	struct hf_agent_process next;
	if (holder->fd >= 0 && !hf_agent_process_same(holder, agent) &&
	    !hf_agent_process_wait_gone(holder, PREDECESSOR_WAIT_MS, attach->stop_fd)) {
		fail(answer, "busy",
		     "process %d had this VM's userfaultfd before and has not ended, so it may still write "
		     "into "
		     "the VM's memory; end it, then try again",
		     (int)holder->pid);
		return;
	}
	int result = agent->fd >= 0 ? hf_agent_process_copy(agent, &next) : -ESRCH;
	if (result) {
		fail(answer, "failed", "the end of the agent's process cannot be watched: %s",
		     strerror(-result));
		return;
	}
	hf_agent_process_close(holder);
	*holder = next;
}

static void userfault(struct hf_attach *attach, const json_t *request, struct answer *answer)
{
	unsigned modes = 0;
	uint64_t features = 0;
	parse_modes(json_object_get(request, "modes"), &modes, answer);
	if (!answer->error_class)
		parse_features(json_object_get(request, "features"), &features, answer);
	if (!answer->error_class)
		check_private(attach, modes, answer);
	features |= features_of_modes(modes);
	bool resumed = attach->userfault >= 0 && attach->modes == modes && !(features & ~attach->features);
	if (!answer->error_class && !resumed)
		check_switch(attach, modes, features, answer);
	if (!answer->error_class)
		take_over(attach, answer);
	if (!answer->error_class && resumed)
		wake_all(attach);
	else if (!answer->error_class)
		register_new(attach, modes, features, answer);
	if (answer->error_class)
		return;
	answer->value = json_pack("{s:b}", "resumed", resumed);
	answer->fds[answer->fd_count++] = attach->userfault;
}

static bool fully_armed(const struct hf_attach *attach)
{
	if (attach->userfault < 0 || !attach->blocks.count || !(attach->modes & HF_USERFAULT_MISSING))
		return false;
	if (attach->modes & HF_USERFAULT_MINOR)
		return true;
	// Without minor faults half-filled pages of shared memory can be seen, so only where there is no
	// choice.
	uint64_t offered = UFFD_FEATURE_MINOR_HUGETLBFS;
	hf_uffd_kernel_features(&offered, NULL);
	if (!(offered & UFFD_FEATURE_MINOR_HUGETLBFS))
		return true;
	for (uint32_t i = 0; i < attach->blocks.count; i++)
		if (attach->memory[i].fd >= 0)
			return false;
	return true;
}

/* ---- release ---- */

static void release(struct hf_attach *attach, struct answer *answer)
{
	if (attach->userfault >= 0 && unregister_all(attach, &answer->why)) {
		answer->error_class = "failed";
		return;
	}
	hf_agent_process_close(&attach->holder);
	answer->value = json_object();
}

/* ---- dispatch ---- */

static void dispatch(struct hf_attach *attach, const json_t *request, struct answer *answer)
{
	const char *command = json_string_value(json_object_get(request, "command"));
	if (!command)
		fail(answer, "invalid", "a request needs 'command', a name");
	else if (!strcmp(command, "hello"))
		hello(attach, request, answer);
	else if (!attach->agent.greeted)
		fail(answer, "invalid", "say 'hello' first");
	else if (!strcmp(command, "userfault"))
		userfault(attach, request, answer);
	else if (!strcmp(command, "release"))
		release(attach, answer);
	else
		fail(answer, "unsupported", "no command '%.64s' here", command);
	if (!answer->error_class && !answer->value)
		fail(answer, "failed", "out of memory");
}

int hf_attach_session_line(struct hf_attach *attach, const char *line, size_t length)
{
	struct answer answer = {0};
	json_t *request = json_loadb(line, length, JSON_REJECT_DUPLICATES, NULL);
	bool is_object = json_is_object(request);
	if (is_object)
		dispatch(attach, request, &answer);
	else
		fail(&answer, "invalid", "a request must be one JSON object on one line");
	int result = send_answer(attach, &answer);
	// Only a descriptor that has left makes it safe for the VMM to run into missing pages.
	if (!result && !atomic_load(&attach->armed) && fully_armed(attach))
		set_armed(attach, true);
	json_decref(answer.value);
	json_decref(request);
	return result ? result : is_object ? 0 : -EPROTO;
}
