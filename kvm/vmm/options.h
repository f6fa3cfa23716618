/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.h - the command line of hugeferry-vmm.
 *
 * Purpose: parses and checks every option; what comes out can be used as is.
 * Ownership: strings point into argv.
 * Threads: one, at start (getopt keeps state).
 * Units: bytes, percent.
 * Errors: 0 or -EINVAL with a line that names the option.
 */
#ifndef HF_KVM_VMM_OPTIONS_H
#define HF_KVM_VMM_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"
#include "kvm/guest.h"
#include "kvm/vmm/accel.h"

struct vmm_options {
	struct hf_guest_config guest;
	const char *name;
	const char *id; /* of the memory backend */
	const char *ram_file;
	const char *qmp_path;
	const char *attach_path; /* NULL: none */
	enum vmm_accel accel;
	bool incoming;
	bool die_with_parent;
	bool help;
};

extern const char vmm_options_help[];

int vmm_options_parse(struct vmm_options *options, int argc, char **argv, struct hf_err *err);

#endif
