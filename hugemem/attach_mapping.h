/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach_mapping.h - is a mapping what its owner says it is? Internal to hugemem/.
 *
 * Purpose: compares a region the VMM names with the kernel's own view of this process (/proc/self/smaps).
 * Ownership: none.
 * Threads: any.
 * Units: bytes.
 * Errors: 0 or -errno with text naming the region and both values.
 */
#ifndef HF_HUGEMEM_ATTACH_MAPPING_H
#define HF_HUGEMEM_ATTACH_MAPPING_H

#include "core/err.h"
#include "hugemem/attach.h"

/*
 * The range is mapped without gaps, readable and writable, in huge pages of the size named; with an fd:
 * shared, from that file at that offset; without: private.
 */
int hf_attach_mapping_check(const struct hf_attach_region *region, struct hf_err *err);

#endif
