/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmm_version.h - whether this VMM is one that Hugeferry has been tested with.
 *
 * Purpose: `send` and `receive` warn of a QEMU that nobody has tried, and go on.
 * Ownership: none. Threads: main. Units: none.
 * Errors: those of the question, with the VMM's words.
 */
#ifndef HF_DEPLOY_VMM_VERSION_H
#define HF_DEPLOY_VMM_VERSION_H

#include "core/err.h"
#include "kvm/qmp_vm.h"

int hf_warn_untested(const char *command, struct hf_qmp_vm *vm, const char *target, struct hf_err *err);

#endif
