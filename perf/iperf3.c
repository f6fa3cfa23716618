/* SPDX-License-Identifier: Apache-2.0 */
#include "perf/iperf3.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "deploy/children.h"
#include "deploy/monotonic.h"
#include "perf/halves.h"

#define PROGRAM	    "/usr/bin/iperf3"
#define HOST	    "127.0.0.1"
#define MOVED	    "512M"
#define WAIT_MAX_NS 30000000000ull
#define LOOK_MS	    100
#define PORT_BYTES  8

bool hf_iperf3_is_there(void)
{
	return access(PROGRAM, X_OK) == 0;
}

/* One that is free now; iperf3 takes none that the kernel chooses. */
static int choose_port(char port[static PORT_BYTES], struct hf_err *err)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int result = 0;
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) ||
	    getsockname(fd, (struct sockaddr *)&address, &length))
		result = hf_err_set(err, HF_ERR_LOCAL, errno, "no port is free: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
	snprintf(port, PORT_BYTES, "%u", ntohs(address.sin_port));
	return result;
}

/* Until it has said that, or, with NULL, has ended. */
static int wait_for(struct hf_child *child, const char *text, struct hf_err *err)
{
	uint64_t until_ns = hf_monotonic_ns(NULL) + WAIT_MAX_NS;
	char line[HF_ERR_TEXT_BYTES];
	while (!child->ended && !(text && strstr(child->out.text, text))) {
		if (hf_monotonic_ns(NULL) > until_ns)
			return hf_err_set(err, HF_ERR_LOCAL, ETIMEDOUT, "%s has not ended", child->name);
		hf_children_pump(&child, 1, -1, LOOK_MS);
	}
	if (!child->ended || (!text && child->exit_code == 0))
		return 0;
	hf_child_last_line(child, line, sizeof(line));
	return hf_err_set(err, HF_ERR_LOCAL, ECHILD, "%s has ended with %d: %s", child->name,
			  child->exit_code, line);
}

/* The lines "... 12345 Kbits/sec   receiver", the last of which is of all streams, and "CPU Utilization:
 * ...". */
static int read_figures(const char *said, struct hf_iperf3 *measured, struct hf_err *err)
{
	double kbits_per_s = 0, giver_percent, taker_percent;
	const char *unit = said, *cpu = strstr(said, "CPU Utilization:");
	while ((unit = strstr(unit, " Kbits/sec")) != NULL) {
		const char *number = unit;
		while (number > said && number[-1] != ' ')
			number--;
		unit += strlen(" Kbits/sec");
		if (strncmp(unit + strspn(unit, " "), "receiver", strlen("receiver")) == 0)
			kbits_per_s = strtod(number, NULL);
	}
	if (kbits_per_s <= 0 || !cpu ||
	    sscanf(cpu, "CPU Utilization: local/sender %lf%% (%*[^)]), remote/receiver %lf%%", &giver_percent,
		   &taker_percent) != 2)
		return hf_err_set(err, HF_ERR_LOCAL, EPROTO, "iperf3 says its figures in another way");
	measured->mib_per_s = kbits_per_s * 1000 / 8 / (1 << 20);
	measured->cpu_s_per_gib = (giver_percent + taker_percent) / 100 * 1024 / measured->mib_per_s;
	return 0;
}

static int run(struct hf_child *taker, struct hf_child *giver, uint32_t streams, const cpu_set_t *cpus,
	       struct hf_err *err)
{
	char port[PORT_BYTES], count[16];
	int result = choose_port(port, err);
	if (result)
		return result;
	snprintf(count, sizeof(count), "%u", streams);
	const char *const take[] = {PROGRAM, "-s", "-1", "-B", HOST, "-p", port, "--forceflush", NULL};
	const char *const give[] = {PROGRAM, "-c", HOST, "-p", port, "-P", count, "-n",
				    MOVED,   "-i", "0",	 "-f", "k",  "-V", NULL};
	result = hf_child_start(taker, "iperf3 -s", take, err);
	if (!result)
		result = wait_for(taker, "listening", err);
	if (result)
		return result;
	hf_stay_on_half(cpus, 1); /* a child begins where its parent is */
	result = hf_child_start(giver, "iperf3 -c", give, err);
	hf_stay_on_half(cpus, 0);
	return result ? result : wait_for(giver, NULL, err);
}

int hf_iperf3_measure(uint32_t streams, const cpu_set_t *cpus, struct hf_iperf3 *measured, struct hf_err *err)
{
	struct hf_child taker = {0}, giver = {0};
	int result = run(&taker, &giver, streams, cpus, err);
	if (!result)
		result = read_figures(giver.out.text, measured, err);
	hf_child_end(&giver);
	hf_child_end(&taker);
	return result;
}
