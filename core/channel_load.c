/* SPDX-License-Identifier: Apache-2.0 */
#include "core/channel_load.h"

uint32_t hf_channel_pick(const struct hf_channel_load *first, size_t stride_bytes, uint32_t count,
			 enum hf_fetch_class class, uint32_t fetches_max)
{
	uint32_t best = HF_CHANNEL_NONE;
	uint64_t best_bytes = UINT64_MAX;
	for (uint32_t i = 0; i < count; i++) {
		const struct hf_channel_load *load =
		    (const void *)((const uint8_t *)first + i * stride_bytes);
		if (load->class != class || atomic_load(&load->outstanding) >= fetches_max)
			continue;
		uint64_t bytes = atomic_load(&load->outstanding_bytes);
		if (bytes < best_bytes) {
			best = i;
			best_bytes = bytes;
		}
	}
	return best;
}
