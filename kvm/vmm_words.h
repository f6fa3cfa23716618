/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmm_words.h - what a VMM writes to its standard error, where that is a file.
 *
 * Purpose: QEMU says there, and nowhere else, which device it could not load, and often ends then. An
 * operator should read it where the migration is refused. A pipe or a terminal is not touched: who reads
 * there reads it all.
 *
 * Ownership: open/close; a zeroed struct may be closed.
 * Threads: add() from any.
 * Units: bytes.
 * Errors: none; without a file there is nothing to add.
 */
#ifndef HF_KVM_VMM_WORDS_H
#define HF_KVM_VMM_WORDS_H

#include <stdint.h>
#include <sys/types.h>

#include "core/err.h"

struct hf_vmm_words {
	int fd;		      /* stored + 1 */
	uint64_t start_bytes; /* what was there before is not about us */
};

void hf_vmm_words_open(struct hf_vmm_words *words, pid_t pid);
void hf_vmm_words_close(struct hf_vmm_words *words);
/* Adds "; its log says: ..." to the text, cut to fit, if the VMM has written something since open(). */
void hf_vmm_words_add(const struct hf_vmm_words *words, struct hf_err *err);

#endif
