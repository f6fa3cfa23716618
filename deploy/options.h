/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.h - the command line of every subcommand.
 *
 * Purpose: one table of options, each with the subcommands that know it, its kind, its limits and its
 * help text; parsing, checking and --help all come from that table.
 * Ownership: strings point into argv.
 * Threads: one; getopt_long keeps global state.
 * Units: in the names; sizes are written 4096, 64K, 2M, 1G or 1T.
 * Errors: -EINVAL with a line that names the option and what it wants.
 */
#ifndef HF_DEPLOY_OPTIONS_H
#define HF_DEPLOY_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"

enum hf_command {
	HF_COMMAND_SEND = 1 << 0,
	HF_COMMAND_RECEIVE = 1 << 1,
	HF_COMMAND_CHECK = 1 << 2,
	HF_COMMAND_DEMO = 1 << 3,
	HF_COMMAND_EXEC = 1 << 4,
};

enum hf_demo_transport { HF_DEMO_TRANSPORT_TCP = 0, HF_DEMO_TRANSPORT_UNIX };

struct hf_options {
	const char *vm;
	const char *to;
	const char *listen;
	const char *attach;
	const char *json;
	const char *qmp;	       /* control socket, unix:PATH; NULL = none */
	const char *vmm;	       /* demo: the reference VMM; NULL = next to this program */
	uint32_t placement;	       /* enum hf_placement_choice */
	uint32_t channels;	       /* page channels per class */
	uint64_t chunk_bytes;	       /* 0 = the engine's default */
	uint32_t timeout_s;	       /* 0 = none */
	uint32_t switchover_timeout_s; /* send: the VM stands still that long at most; 0 = no limit */
	uint32_t max_page_stall_ms;    /* 0 = none */
	bool release_ram;	       /* send: pages are given back when the destination has placed them */
	uint32_t recover_timeout_s; /* how long a new link is looked for; 0 = a lost link ends the program */
	uint64_t max_postcopy_bandwidth; /* receive: bytes/s of the background; 0 = no limit */
	const char *state_dir;		 /* durable records of who may run a VM */
	const char *runtime_dir;	 /* receive: kept maps; a tmpfs */
	bool poison_missing;		 /* receive: of a paused VM, poison what is missing and end */
	bool keep;			 /* send: leave the source VMM alive */
	bool precopy, precopy_only;	 /* send: rounds before the VM stops; and no postcopy */
	uint32_t postcopy_after_s;	 /* send: rounds end then; 0 = when they do */
	uint32_t downtime_limit_ms;	 /* send: of moving pages in the pause */
	uint64_t max_bandwidth_bytes;	 /* send: a second, of rounds; 0 = none */
	bool no_background;		 /* serve faults only until SIGUSR1 */
	uint64_t mem_bytes;		 /* demo, as all below */
	uint64_t page_size_bytes;
	uint32_t vcpus;
	uint32_t transport; /* enum hf_demo_transport */
	uint32_t pattern;   /* enum hf_guest_pattern */
	uint32_t write_percent;
	uint32_t fill_percent;
	uint64_t seed;
	uint32_t demand_only_s; /* with no_background: how long until the background may start */
	uint32_t keep_going_s;
	bool compare;
	char **program; /* exec: what to run, NULL-terminated */
};

/*
 * Parses argv (argv[0] is the subcommand). Returns 0, 1 when --help was asked for and printed, or -EINVAL.
 */
int hf_options_parse(enum hf_command command, int argc, char **argv, struct hf_options *options,
		     struct hf_err *err);

/*
 * The absolute path of the VM's QMP socket: what names its record and kept maps, since the same command line
 * names it again when the VMM itself cannot be asked.
 */
#define HF_VM_KEY_BYTES 256
int hf_options_vm_key(const struct hf_options *options, char key[static HF_VM_KEY_BYTES], struct hf_err *err);

/* "2G" and the like; strict: digits, then at most one of K M G T, nothing else, no overflow. */
int hf_parse_size(const char *text, uint64_t *bytes);
/* Decimal digits only, at most `max`. */
int hf_parse_count(const char *text, uint64_t max, uint64_t *count);

#endif
