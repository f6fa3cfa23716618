/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uffd_open.h - a userfaultfd that also delivers the kernel's own faults. Internal to hugemem/.
 *
 * Purpose: one place that knows the ways to get a userfaultfd and the UFFDIO_API handshake.
 * Ownership: the caller owns the descriptor; it is close-on-exec and non-blocking.
 * Threads: any.
 * Units: features are UFFD_FEATURE_* bits.
 * Errors: 0 or -errno with text; -EOPNOTSUPP names the features this kernel lacks.
 */
#ifndef HF_HUGEMEM_UFFD_OPEN_H
#define HF_HUGEMEM_UFFD_OPEN_H

#include <stddef.h>
#include <stdint.h>

#include "core/err.h"

/* Descriptor before the handshake: the system call, else /dev/userfaultfd. Never USER_MODE_ONLY. */
int hf_uffd_raw(int *fd, struct hf_err *err);
/* What the kernel offers. */
int hf_uffd_kernel_features(uint64_t *features, struct hf_err *err);
/* Ready for UFFDIO_REGISTER with exactly these features. */
int hf_uffd_open(int *fd, uint64_t features, struct hf_err *err);

/* "missing-hugetlbfs", "wp-async", ...; NULL for a bit that has no name here. */
const char *hf_uffd_feature_name(uint64_t bit);
/* The bit of a name; 0 if unknown. */
uint64_t hf_uffd_feature_bit(const char *name);
/* Names of all bits set, ", " between. Returns buffer. */
const char *hf_uffd_feature_names(uint64_t features, char *buffer, size_t bytes);

#endif
