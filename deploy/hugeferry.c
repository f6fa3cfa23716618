/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The `hugeferry` program. Theory of operation: this file only picks the subcommand. Each of them is a plain
 * function of its own file that wires ports to an engine (send, receive), looks at the host (check) or runs
 * the other programs as children (demo) or in its own place (exec). Nothing is kept between subcommands.
 */
#include <stdio.h>
#include <string.h>

#include "deploy/program.h"

struct subcommand {
	const char *name;
	int (*main)(int argc, char **argv);
	const char *help;
};

static const struct subcommand subcommands[] = {
    {"send", hf_main_send, "move a running VM away from this host"},
    {"receive", hf_main_receive, "take a VM in and pull its memory"},
    {"exec", hf_main_exec, "start a VMM such as QEMU so that its memory can be moved"},
    {"check", hf_main_check, "say whether this host is ready, and what to do if not"},
    {"demo", hf_main_demo, "move a small VM on this host from one process to another and verify it"},
};

#define SUBCOMMANDS (sizeof(subcommands) / sizeof(subcommands[0]))

static void print_help(FILE *out)
{
	fputs("hugeferry moves running VMs whose memory is huge pages from one host to another.\n\n"
	      "usage: hugeferry COMMAND [OPTION...]\n"
	      "       hugeferry --help | --version\n\ncommands:\n",
	      out);
	for (size_t i = 0; i < SUBCOMMANDS; i++)
		fprintf(out, "  %-9s %s\n", subcommands[i].name, subcommands[i].help);
	fputs("\n`hugeferry COMMAND --help` lists the options.\n\nexit codes:\n"
	      "  0  completed (check: nothing needed is missing)\n"
	      "  1  failed; before the hand-over the source VM runs on\n"
	      "  2  the command line is wrong; nothing was done\n"
	      "  3  cancelled before the hand-over; the source VM runs on\n"
	      "  4  the link was lost after the hand-over; the VM belongs to the destination\n"
	      "  5  completed without pages that are lost; the operator had them poisoned\n",
	      out);
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		print_help(stderr);
		return HF_EXIT_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		print_help(stdout);
		return HF_EXIT_OK;
	}
	if (!strcmp(argv[1], "--version")) {
		puts("hugeferry " HF_VERSION);
		return HF_EXIT_OK;
	}
	for (size_t i = 0; i < SUBCOMMANDS; i++) {
		if (!strcmp(argv[1], subcommands[i].name))
			return subcommands[i].main(argc - 1, argv + 1);
	}
	fprintf(stderr, "hugeferry: '%s' is no command; try `hugeferry --help`\n", argv[1]);
	return HF_EXIT_USAGE;
}
