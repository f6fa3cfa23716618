/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: numa_maps has a line for each mapping, in address order: the start, the policy in
 * force there (the mapping's own, else the process's) with its nodes, then properties:
 *
 *     7f2c40000000 bind:0-1,3 file=/dev/hugepages/ram huge dirty=4 N0=4 kernelpagesize_kB=2048
 *     7f2c80000000 prefer=static:2 anon=1 ...
 *     7f2c90000000 default anon=1 ...
 *
 * The line of an address is the last one that does not start behind it.
 */
#include "hugemem/numa.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NODES_MAX 64u

static enum hf_numa_mode mode_named(const char *name, size_t length)
{
	static const char *const names[] = {
	    [HF_NUMA_PREFERRED] = "prefer", [HF_NUMA_BIND] = "bind", [HF_NUMA_INTERLEAVE] = "interleave"};

	for (unsigned mode = HF_NUMA_PREFERRED; mode <= HF_NUMA_INTERLEAVE; mode++)
		if (strlen(names[mode]) == length && strncmp(names[mode], name, length) == 0)
			return (enum hf_numa_mode)mode;
	return HF_NUMA_ANY;
}

/* "0-1,3" */
static uint64_t parse_nodes(const char *text)
{
	uint64_t nodes = 0;

	while (*text >= '0' && *text <= '9') {
		char *rest;
		unsigned long first = strtoul(text, &rest, 10), last = first;
		if (*rest == '-')
			last = strtoul(rest + 1, &rest, 10);
		for (unsigned long node = first; node <= last && node < NODES_MAX; node++)
			nodes |= UINT64_C(1) << node;
		text = *rest == ',' ? rest + 1 : rest;
		if (text == rest)
			break;
	}
	return nodes;
}

static struct hf_numa_policy parse_policy(const char *text)
{
	struct hf_numa_policy policy = {.mode = mode_named(text, strcspn(text, ":= \n"))};
	const char *nodes = strchr(text, ':');

	if (policy.mode != HF_NUMA_ANY && nodes)
		policy.nodes = parse_nodes(nodes + 1);
	return policy.nodes ? policy : (struct hf_numa_policy){0};
}

struct hf_numa_policy hf_numa_policy_in(FILE *numa_maps, uint64_t address)
{
	struct hf_numa_policy policy = {0};
	char *line = NULL;
	size_t capacity = 0;

	while (getline(&line, &capacity, numa_maps) > 0) {
		char *rest;
		uint64_t start = strtoull(line, &rest, 16);
		if (*rest != ' ' || start > address)
			break;
		policy = parse_policy(rest + 1);
	}
	free(line);
	return policy;
}

struct hf_numa_policy hf_numa_policy_of(pid_t pid, uint64_t address)
{
	struct hf_numa_policy policy = {0};
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/numa_maps", (int)pid);
	FILE *file = fopen(path, "re");
	if (!file)
		return policy;
	policy = hf_numa_policy_in(file, address);
	fclose(file);
	return policy;
}

int hf_numa_apply(const struct hf_numa_policy *policy, void *address, size_t length_bytes)
{
	if (policy->mode == HF_NUMA_ANY)
		return 0;
	/* The kernel takes one bit less than it is told. */
	return syscall(SYS_mbind, address, length_bytes, (long)policy->mode, &policy->nodes, NODES_MAX + 1, 0)
		   ? -errno
		   : 0;
}

uint64_t hf_numa_free(const struct hf_hugepage_counts *counts, uint64_t nodes)
{
	uint64_t pages = 0;

	for (uint32_t i = 0; i < counts->nodes; i++)
		if (counts->node_id[i] < (int)NODES_MAX && nodes >> counts->node_id[i] & 1)
			pages += counts->node_free[i];
	return pages;
}
