/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `hugeferry demo`. Theory of operation: the demo is an operator. It takes huge pages and a hugetlbfs from
 * the host (workspace.c), starts two reference VMMs, `hugeferry receive` and `hugeferry send` as processes of
 * their own with real sockets between them (children.c), and does what an operator would do: wait until the
 * guest runs, start the move, let the guest run before, during and after, then stop it and judge its
 * memory from outside (demo_verify.c).
 *
 * Every wait is one loop over the children's output and end, a signal and a condition; a child that ends
 * when it should not is a failure that quotes its last line. Whatever happens, close_demo() kills what runs
 * and gives back what was taken.
 *
 * Care is needed with the destination's RAM file: a look through another mapping would allocate pages behind
 * the migration's back. So it is mapped here only after the last page has been placed.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "core/ramblock.h"
#include "deploy/demo.h"
#include "deploy/monotonic.h"
#include "deploy/program.h"
#include "deploy/report.h"
#include "hugemem/guest_memory.h"
#include "hugemem/hugepool.h"
#include "kvm/guest.h"

#define COMMAND		  "demo"
#define LOOK_AGAIN_MS	  20
#define START_TIMEOUT_S	  120u
#define RUN_TIMEOUT_S	  60u
#define MOVE_TIMEOUT_S	  3600u
#define QMP_TIMEOUT_MS	  30000u
#define VISITS_PER_VCPU	  2000u /* that show that a guest runs */
#define STAGING_BYTES	  (32ull << 20)
#define STAGING_PAGES_MIN 2u

static const char *const guest_patterns[] = {"sequential", "random", "hot"};
static const char *const placement_names[] = {"auto", "copy", "continue"};

static void step(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void step(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
}

/* ---- waiting ---- */

/* 1: it holds; 0: not yet; -errno. */
typedef int condition(struct hf_demo *demo, struct hf_err *err);

static int check_signal(struct hf_demo *demo, struct hf_err *err)
{
	struct signalfd_siginfo info;
	if (read(demo->signal_fd - 1, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return 0;
	return hf_err_set(err, HF_ERR_CANCELLED, ECANCELED, "cancelled by %s",
			  info.ssi_signo == SIGINT ? "SIGINT" : "SIGTERM");
}

static bool ended_well(const struct hf_demo *demo, enum demo_child which)
{
	const struct hf_child *child = &demo->children[which];
	if (which == DEMO_SOURCE_VMM) // `send` kills it: it is frozen by then
		return demo->children[DEMO_SEND].started && child->exit_code == 128 + SIGKILL;
	return child->exit_code == 0 && (which == DEMO_SEND || which == DEMO_RECEIVE);
}

static int child_failed(const struct hf_child *child, struct hf_err *err)
{
	char line[HF_ERR_TEXT_BYTES];
	hf_child_last_line(child, line, sizeof(line));
	return hf_err_set(err, HF_ERR_LOCAL, ECHILD, "%s ended with code %d: %s", child->name,
			  child->exit_code, line[0] ? line : "it said nothing");
}

static int check_children(const struct hf_demo *demo, struct hf_err *err)
{
	for (enum demo_child i = 0; i < DEMO_CHILDREN; i++) {
		if (demo->children[i].ended && !ended_well(demo, i))
			return child_failed(&demo->children[i], err);
	}
	return 0;
}

static void pump(struct hf_demo *demo, int timeout_ms)
{
	struct hf_child *children[DEMO_CHILDREN];
	for (int i = 0; i < DEMO_CHILDREN; i++)
		children[i] = &demo->children[i];
	hf_children_pump(children, DEMO_CHILDREN, demo->signal_fd - 1, timeout_ms);
}

static int wait_for(struct hf_demo *demo, condition *holds, uint32_t timeout_s, const char *what,
		    struct hf_err *err)
{
	uint64_t end_ns = hf_monotonic_ns(NULL) + timeout_s * 1000000000ull;
	for (;;) {
		int result = check_signal(demo, err);
		if (!result)
			result = check_children(demo, err);
		if (!result)
			result = holds(demo, err);
		if (result)
			return result < 0 ? result : 0;
		if (hf_monotonic_ns(NULL) >= end_ns)
			return hf_err_set(err, HF_ERR_LOCAL, ETIMEDOUT, "%s: not within %u s", what,
					  timeout_s);
		pump(demo, LOOK_AGAIN_MS);
	}
}

static int visits_done(struct hf_demo *demo, struct hf_err *err)
{
	(void)err;
	const struct hf_demo_view *view = &demo->view[demo->visitor];
	return hf_guest_visits(view->memory, view->bytes) >= demo->visits_wanted;
}

static int time_is_up(struct hf_demo *demo, struct hf_err *err)
{
	(void)err;
	return hf_monotonic_ns(NULL) >= demo->deadline_ns;
}

static int wait_seconds(struct hf_demo *demo, uint32_t seconds, struct hf_err *err)
{
	demo->deadline_ns = hf_monotonic_ns(NULL) + seconds * 1000000000ull;
	return wait_for(demo, time_is_up, seconds + RUN_TIMEOUT_S, "letting the guest run", err);
}

/* Waits until the guest has done some more on that side. */
static int wait_guest_runs(struct hf_demo *demo, enum demo_child vmm, struct hf_err *err)
{
	const struct hf_demo_view *view = &demo->view[vmm];
	demo->visitor = vmm;
	demo->visits_wanted =
	    hf_guest_visits(view->memory, view->bytes) + (uint64_t)VISITS_PER_VCPU * demo->options.vcpus;
	return wait_for(demo, visits_done, RUN_TIMEOUT_S, "waiting for the guest to run", err);
}

/* ---- the VMMs ---- */

static void socket_path(const struct hf_demo *demo, const char *name, char path[static 128])
{
	snprintf(path, 128, "%s/%s", demo->workspace.folder, name);
}

static bool has_kvm(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static int start_vmm(struct hf_demo *demo, enum demo_child which, struct hf_err *err)
{
	const struct hf_options *options = &demo->options;
	bool incoming = which == DEMO_DESTINATION_VMM;
	const char *side = incoming ? "destination" : "source";
	char qmp[160], attach[160], memory[24], page_size[24], vcpus[12], writes[12], fill[12], seed[24];
	snprintf(qmp, sizeof(qmp), "unix:%s/%s.qmp", demo->workspace.folder, side);
	snprintf(attach, sizeof(attach), "%s/%s.attach", demo->workspace.folder, side);
	snprintf(memory, sizeof(memory), "%" PRIu64, options->mem_bytes);
	snprintf(page_size, sizeof(page_size), "%" PRIu64 "M", options->page_size_bytes >> 20);
	snprintf(vcpus, sizeof(vcpus), "%u", options->vcpus);
	snprintf(writes, sizeof(writes), "%u", options->write_percent);
	snprintf(fill, sizeof(fill), "%u", options->fill_percent);
	snprintf(seed, sizeof(seed), "%" PRIu64, options->seed);
	const char *argv[] = {demo->vmm,
			      "--name",
			      "demo",
			      "--mem",
			      memory,
			      "--page-size",
			      page_size,
			      "--ram-file",
			      demo->workspace.ram[which],
			      "--vcpus",
			      vcpus,
			      "--accel",
			      demo->user_mode ? "user" : "kvm",
			      "--qmp",
			      qmp,
			      "--attach",
			      attach,
			      "--pattern",
			      guest_patterns[options->pattern],
			      "--write-share",
			      writes,
			      "--fill",
			      fill,
			      "--seed",
			      seed,
			      incoming ? "--incoming" : NULL,
			      "defer",
			      NULL};
	return hf_child_start(&demo->children[which], incoming ? "destination VMM" : "source VMM", argv, err);
}

static int answers_qmp(struct hf_demo *demo, const char *name, struct hf_qmp_client **client)
{
	struct hf_err not_yet;
	char path[128];
	socket_path(demo, name, path);
	if (access(path, F_OK))
		return 0;
	return !hf_qmp_client_connect(client, path, NULL, NULL, &not_yet);
}

static int source_answers(struct hf_demo *demo, struct hf_err *err)
{
	(void)err;
	struct hf_qmp_client *client = NULL;
	if (!answers_qmp(demo, "source.qmp", &client))
		return 0;
	hf_qmp_client_destroy(client);
	return 1;
}

static int destination_answers(struct hf_demo *demo, struct hf_err *err)
{
	(void)err;
	return answers_qmp(demo, "destination.qmp", &demo->destination);
}

static int start_vmms(struct hf_demo *demo, struct hf_err *err)
{
	demo->user_mode = !has_kvm();
	if (demo->user_mode)
		fprintf(stderr,
			"hugeferry: /dev/kvm cannot be opened: the VMs run in user mode, without it\n");
	int result = start_vmm(demo, DEMO_SOURCE_VMM, err);
	if (!result)
		result = start_vmm(demo, DEMO_DESTINATION_VMM, err);
	if (!result)
		result = wait_for(demo, source_answers, START_TIMEOUT_S, "starting the source VMM", err);
	if (!result)
		result =
		    wait_for(demo, destination_answers, START_TIMEOUT_S, "starting the destination VMM", err);
	if (!result)
		result = hf_demo_map(demo, DEMO_SOURCE_VMM, err);
	if (!result)
		result = wait_guest_runs(demo, DEMO_SOURCE_VMM, err);
	return result;
}

static int destination_runs(struct hf_demo *demo, struct hf_err *err)
{
	json_t *status = NULL;
	int result =
	    hf_qmp_client_execute(demo->destination, "query-status", NULL, QMP_TIMEOUT_MS, &status, err);
	if (result)
		return result;
	const char *text = json_string_value(json_object_get(status, "status"));
	result = text && !strcmp(text, "running");
	json_decref(status);
	return result;
}

/* ---- the migration ---- */

static int start_receive(struct hf_demo *demo, struct hf_err *err)
{
	const struct hf_options *options = &demo->options;
	char qmp[160], attach[128], listen[320], json[128], channels[12], chunk[24];
	snprintf(qmp, sizeof(qmp), "qmp:%s/destination.qmp", demo->workspace.folder);
	socket_path(demo, "destination.attach", attach);
	socket_path(demo, "receive.json", json);
	snprintf(channels, sizeof(channels), "%u", options->channels);
	snprintf(chunk, sizeof(chunk), "%" PRIu64, options->chunk_bytes);
	if (options->listen)
		snprintf(listen, sizeof(listen), "%s", options->listen);
	else if (options->transport == HF_DEMO_TRANSPORT_UNIX)
		snprintf(listen, sizeof(listen), "unix:%s/link", demo->workspace.folder);
	else
		snprintf(listen, sizeof(listen), "tcp:127.0.0.1:0");

	/* A link is lost only with the other program, and nobody starts that again. */
	const char *argv[24] = {demo->self,
				"receive",
				"--vm",
				qmp,
				"--attach",
				attach,
				"--listen",
				listen,
				"--json",
				json,
				"--channels",
				channels,
				"--state-dir",
				demo->workspace.folder,
				"--runtime-dir",
				demo->workspace.runtime,
				"--recover-timeout",
				"0",
				"--placement",
				placement_names[options->placement]};
	size_t used = 20;
	if (options->chunk_bytes) {
		argv[used++] = "--chunk-size";
		argv[used++] = chunk;
	}
	if (options->no_background)
		argv[used++] = "--no-background";
	return hf_child_start(&demo->children[DEMO_RECEIVE], "receive", argv, err);
}

static int receive_listens(struct hf_demo *demo, struct hf_err *err)
{
	static const char start[] = "listening on ";
	const char *text = demo->children[DEMO_RECEIVE].out.text;
	const char *end = strchr(text, '\n');
	if (!end)
		return 0;
	const char *uri = text + sizeof(start) - 1;
	if (strncmp(text, start, sizeof(start) - 1) != 0 || (size_t)(end - uri) >= sizeof(demo->uri))
		return hf_err_set(err, HF_ERR_LOCAL, EPROTO, "receive did not say where it listens");
	memcpy(demo->uri, uri, (size_t)(end - uri));
	demo->uri[end - uri] = '\0';
	return 1;
}

static int start_send(struct hf_demo *demo, struct hf_err *err)
{
	char qmp[160], json[128], channels[12];
	snprintf(qmp, sizeof(qmp), "qmp:%s/source.qmp", demo->workspace.folder);
	socket_path(demo, "send.json", json);
	snprintf(channels, sizeof(channels), "%u", demo->options.channels);
	const char *argv[] = {demo->self,
			      "send",
			      "--vm",
			      qmp,
			      "--to",
			      demo->uri,
			      "--channels",
			      channels,
			      "--json",
			      json,
			      "--state-dir",
			      demo->workspace.folder,
			      "--recover-timeout",
			      "0",
			      demo->options.compare ? "--keep" : NULL,
			      NULL};
	return hf_child_start(&demo->children[DEMO_SEND], "send", argv, err);
}

static int both_done(struct hf_demo *demo, struct hf_err *err)
{
	(void)err;
	return demo->children[DEMO_SEND].ended && demo->children[DEMO_RECEIVE].ended;
}

/* With --no-background: the VM runs on faults alone for a while. */
static int run_on_demand(struct hf_demo *demo, struct hf_err *err)
{
	int result =
	    wait_for(demo, destination_runs, START_TIMEOUT_S, "waiting for the VM at the destination", err);
	if (!result)
		result = wait_seconds(demo, demo->options.demand_only_s, err);
	if (!result) {
		step("the VM has run on faults alone for %u s; the background starts",
		     demo->options.demand_only_s);
		hf_child_signal(&demo->children[DEMO_RECEIVE], SIGUSR1);
	}
	return result;
}

static int migrate(struct hf_demo *demo, struct hf_err *err)
{
	int result = start_receive(demo, err);
	if (!result)
		result = wait_for(demo, receive_listens, START_TIMEOUT_S, "waiting for receive", err);
	if (!result)
		step("moving it over %s", demo->uri);
	if (!result)
		result = start_send(demo, err);
	if (!result && demo->options.no_background)
		result = run_on_demand(demo, err);
	if (!result)
		result = wait_for(demo, both_done, MOVE_TIMEOUT_S, "moving the VM", err);
	return result;
}

/* The two sides fail together; each has its own view of why. */
static void quote_other_side(struct hf_demo *demo)
{
	struct hf_err err = HF_ERR_INIT;
	const enum demo_child sides[] = {DEMO_SEND, DEMO_RECEIVE};
	uint64_t end_ns = hf_monotonic_ns(NULL) + 3000000000ull;
	while (demo->children[DEMO_SEND].started && !both_done(demo, &err) && hf_monotonic_ns(NULL) < end_ns)
		pump(demo, LOOK_AGAIN_MS);
	for (size_t i = 0; i < 2; i++) {
		char line[HF_ERR_TEXT_BYTES];
		hf_child_last_line(&demo->children[sides[i]], line, sizeof(line));
		if (line[0])
			fprintf(stderr, "%s\n", line);
	}
}

/* ---- the judgement ---- */

static int load_reports(struct hf_demo *demo, struct hf_err *err)
{
	json_error_t why;
	char path[128];
	socket_path(demo, "receive.json", path);
	demo->report = json_load_file(path, 0, &why);
	if (!json_is_object(demo->report))
		return hf_err_set(err, HF_ERR_LOCAL, EPROTO, "receive left no report: %s", why.text);
	socket_path(demo, "send.json", path);
	json_t *source = json_load_file(path, 0, &why);
	if (!json_is_object(source))
		return hf_err_set(err, HF_ERR_LOCAL, EPROTO, "send left no report: %s", why.text);
	json_object_set_new(demo->report, "source", source);
	return 0;
}

static int run_on_and_stop(struct hf_demo *demo, struct hf_err *err)
{
	int result = hf_demo_map(demo, DEMO_DESTINATION_VMM, err);
	if (!result)
		result = wait_guest_runs(demo, DEMO_DESTINATION_VMM, err);
	if (!result)
		result = wait_seconds(demo, demo->options.keep_going_s, err);
	if (!result)
		result = hf_qmp_client_execute(demo->destination, "stop", NULL, QMP_TIMEOUT_MS, NULL, err);
	return result;
}

static int run_demo(struct hf_demo *demo, struct hf_err *err)
{
	char memory[HF_SIZE_TEXT_BYTES], page[HF_SIZE_TEXT_BYTES];
	step("starting a VM of %s in pages of %s with %u vCPU%s",
	     hf_size_text(demo->options.mem_bytes, memory), hf_size_text(demo->options.page_size_bytes, page),
	     demo->options.vcpus, demo->options.vcpus == 1 ? "" : "s");
	int result = start_vmms(demo, err);
	if (!result && (result = migrate(demo, err)))
		quote_other_side(demo);
	if (!result)
		result = load_reports(demo, err);
	if (!result)
		result = run_on_and_stop(demo, err);
	if (result)
		return result;
	result = hf_demo_verify(demo, err);
	hf_demo_print(demo);
	return result;
}

/* ---- setting up and clearing away ---- */

/* Beside this program, where an installation has it, or in a build tree. */
static int find_programs(struct hf_demo *demo, struct hf_err *err)
{
	ssize_t length = readlink("/proc/self/exe", demo->self, sizeof(demo->self) - 1);
	if (length < 0)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "/proc is not mounted");
	demo->self[length] = '\0';
	if (demo->options.vmm) {
		snprintf(demo->vmm, sizeof(demo->vmm), "%s", demo->options.vmm);
		return 0;
	}
	static const char *const places[] = {"hugeferry-vmm", "../libexec/hugeferry/hugeferry-vmm",
					     "../kvm/vmm/hugeferry-vmm"};
	int folder = (int)(strrchr(demo->self, '/') - demo->self);
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		int needed = snprintf(demo->vmm, sizeof(demo->vmm), "%.*s/%s", folder, demo->self, places[i]);
		if (needed < (int)sizeof(demo->vmm) && !access(demo->vmm, X_OK))
			return 0;
	}
	return hf_err_set(err, HF_ERR_LOCAL, ENOENT,
			  "hugeferry-vmm is not where %s expects it; name it with --vmm", demo->self);
}

static int check_memory(const struct hf_options *options, struct hf_err *err)
{
	struct hf_ramblocks blocks;
	struct hf_hugepage_counts counts;
	hf_ramblocks_init(&blocks);
	int result = hf_hugepage_counts(options->page_size_bytes, &counts, err);
	if (!result)
		result = hf_ramblocks_add(&blocks, "ram0", options->mem_bytes, options->page_size_bytes, err);
	hf_ramblocks_destroy(&blocks);
	return result;
}

static uint64_t pages_needed(const struct hf_options *options)
{
	uint64_t guests = 2 * (options->mem_bytes / options->page_size_bytes);
	uint64_t staging = STAGING_BYTES / options->page_size_bytes;
	if (options->placement == HF_PLACEMENT_CHOICE_CONTINUE)
		return guests;
	return guests + (staging < STAGING_PAGES_MIN ? STAGING_PAGES_MIN : staging);
}

static int open_signals(struct hf_demo *demo, struct hf_err *err)
{
	sigset_t signals;
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	demo->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK) + 1;
	return demo->signal_fd ? 0 : hf_err_set(err, HF_ERR_LOCAL, errno, "no signalfd");
}

static int open_demo(struct hf_demo *demo, struct hf_err *err)
{
	const struct hf_options *options = &demo->options;
	int result = check_memory(options, err);
	if (!result)
		result = hf_report_check_path(options->json, err);
	if (!result)
		result = find_programs(demo, err);
	if (!result)
		result = open_signals(demo, err);
	if (!result)
		result =
		    hf_workspace_open(&demo->workspace, options->page_size_bytes, pages_needed(options), err);
	if (!result && demo->workspace.pages_added)
		step("reserved %" PRIu64 " more huge pages for the time of the demo",
		     demo->workspace.pages_added);
	return result;
}

static int close_demo(struct hf_demo *demo, struct hf_err *err)
{
	hf_demo_unmap(demo);
	hf_qmp_client_destroy(demo->destination);
	for (int i = DEMO_CHILDREN - 1; i >= 0; i--)
		hf_child_end(&demo->children[i]);
	int result = hf_workspace_close(&demo->workspace, err);
	if (demo->signal_fd)
		close(demo->signal_fd - 1);
	json_decref(demo->report);
	return result;
}

static void write_report(struct hf_demo *demo, const struct hf_err *failure)
{
	struct hf_err err = HF_ERR_INIT;
	if (!demo->options.json)
		return;
	if (!demo->report)
		demo->report = hf_report_failure(failure);
	if (hf_report_write(demo->report, demo->options.json, &err))
		hf_complain(COMMAND, "%s", err.text);
}

static enum hf_exit run(struct hf_demo *demo)
{
	struct hf_err err = HF_ERR_INIT;
	int result = open_demo(demo, &err);
	if (!result)
		result = run_demo(demo, &err);
	if (result)
		hf_complain(COMMAND, "%s", err.text);
	write_report(demo, &err);
	enum hf_exit code = !result			    ? HF_EXIT_OK
			    : err.class == HF_ERR_CANCELLED ? HF_EXIT_CANCELLED
							    : HF_EXIT_FAILED;
	if (close_demo(demo, &err)) {
		hf_complain(COMMAND, "not everything could be given back: %s", err.text);
		return code == HF_EXIT_OK ? HF_EXIT_FAILED : code;
	}
	return code;
}

int hf_main_demo(int argc, char **argv)
{
	struct hf_demo demo = {0};
	struct hf_err err = HF_ERR_INIT;
	int result = hf_options_parse(HF_COMMAND_DEMO, argc, argv, &demo.options, &err);
	if (result < 0)
		hf_complain(COMMAND, "%s", err.text);
	if (result)
		return result < 0 ? HF_EXIT_USAGE : HF_EXIT_OK;
	return run(&demo);
}
