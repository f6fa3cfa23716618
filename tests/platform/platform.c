/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/platform/platform.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hugemem/uffd_open.h"
#include "tests/unit/hugemem/host_pages.h"

#define EXIT_SKIPPED 77
#define TEXT_BYTES   512
/* What ends by itself ends long before; this ends a fact that keeps somebody waiting for ever. */
#define LIMIT_S 120

__attribute__((noreturn)) static void end(int code, const char *before, const char *text)
{
	fprintf(stderr, "# %s: %s\n", before, text);
	_exit(code);
}

void platform_changed(const char *format, ...)
{
	char text[TEXT_BYTES];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	end(1, "the kernel changed its mind", text);
}

void platform_lacks(const char *format, ...)
{
	char text[TEXT_BYTES];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	end(EXIT_SKIPPED, "this kernel lacks", text);
}

void platform_broken(const char *file, int line, const char *what)
{
	fprintf(stderr, "# the fact could not be shown: %s:%d: %s: %s\n", file, line, what, strerror(errno));
	_exit(1);
}

static const char *answer_name(int64_t result)
{
	if (result == 0)
		return "success";
	const char *name = result < 0 && result > -4096 ? strerrorname_np((int)-result) : NULL;
	return name ? name : "a number";
}

void expect_answer(const char *what, int64_t result, int64_t expected)
{
	expect(result == expected, "%s is answered with %s (%" PRId64 "), it was %s", what,
	       answer_name(result), result, answer_name(expected));
}

void expect_no_page(const char *what, int64_t result, uint64_t page_bytes)
{
	if (result != -EEXIST || page_bytes == SIZE_1G)
		expect_answer(what, result, -ENOMEM);
}

static void check_features(const struct platform_fact *fact)
{
	uint64_t offered = 0;
	struct hf_err err = HF_ERR_INIT;
	char names[256];

	if (!fact->features)
		return;
	if (hf_uffd_kernel_features(&offered, &err))
		platform_lacks("%s", err.text);
	if (fact->features & ~offered)
		platform_lacks("%s", hf_uffd_feature_names(fact->features & ~offered, names, sizeof(names)));
}

__attribute__((noreturn)) static void show(const struct platform_fact *fact, uint64_t page_bytes)
{
	/* A debugger, a full disk or a lost wakeup must not hold the whole suite. */
	alarm(LIMIT_S);
	check_features(fact);
	fact->show(page_bytes);
	_exit(0);
}

/* The fact's exit code. */
static int run_in_child(const struct platform_fact *fact, uint64_t page_bytes)
{
	pid_t child = platform_fork();

	if (child == 0)
		show(fact, page_bytes);
	int code = platform_wait(child);
	if (code == 128 + SIGALRM)
		fprintf(
		    stderr,
		    "# the kernel changed its mind: somebody still waits after %d s who was let go before\n",
		    LIMIT_S);
	else if (code > 128)
		fprintf(stderr, "# the kernel changed its mind: signal %d, where there was none\n",
			code - 128);
	return code;
}

static int report(const char *size, const char *claim, int code)
{
	printf("%s - %s%s%s\n", code && code != EXIT_SKIPPED ? "not ok" : "ok", size, claim,
	       code == EXIT_SKIPPED ? " # SKIP" : "");
	fflush(stdout);
	return code;
}

static int run_with_pages(const struct platform_fact *fact, uint64_t page_bytes, unsigned pages)
{
	const char *size = page_bytes == SIZE_1G ? "1 GiB: " : "2 MiB: ";

	if (host_pages_reserve(page_bytes, pages)) {
		/* That an old or small machine has no gigabytes in one piece says nothing about the fact. */
		fprintf(stderr, "# no %u huge pages for it\n", pages);
		return report(size, fact->claim, page_bytes == SIZE_1G ? EXIT_SKIPPED : 1);
	}
	int code = run_in_child(fact, page_bytes);
	host_pages_give_back_last();
	return report(size, fact->claim, code);
}

int platform_run(const struct platform_fact *fact)
{
	if (!fact->pages)
		return report("", fact->claim, run_in_child(fact, 0));
	int small = run_with_pages(fact, SIZE_2M, fact->pages);
	int giant = EXIT_SKIPPED;
	if (fact->giant_pages)
		giant = run_with_pages(fact, SIZE_1G, fact->giant_pages);
	if ((small && small != EXIT_SKIPPED) || (giant && giant != EXIT_SKIPPED))
		return 1;
	return small && giant ? EXIT_SKIPPED : 0;
}

/* ---- other processes ---- */

pid_t platform_fork(void)
{
	fflush(NULL);
	pid_t parent = getpid(), child = fork();

	must(child >= 0);
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
	}
	return child;
}

int platform_wait(pid_t child)
{
	int status = 0;

	must(waitpid(child, &status, 0) == child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void say(int fd, uint8_t byte)
{
	must(write(fd, &byte, 1) == 1);
}

uint8_t hear(int fd)
{
	uint8_t byte = 0;

	must(read(fd, &byte, 1) == 1);
	return byte;
}

bool is_readable(int fd)
{
	struct pollfd polled = {.fd = fd, .events = POLLIN};
	int ready = poll(&polled, 1, 0);

	must(ready >= 0);
	return ready;
}
