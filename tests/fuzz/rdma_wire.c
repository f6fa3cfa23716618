/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Target: what rdma: has of its own on the wire. The first byte chooses: a greeting, a message of the control
 * channel, or a table of keys. What is accepted must come out as it went in, and keys must be of memory.
 */
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "transport-rdma/internal.h"

static void hello(const uint8_t *data, size_t bytes)
{
	struct hf_wire_hello in;
	uint8_t again[RDMA_HELLO_BYTES];
	if (rdma_decode_hello(data, bytes, &in, NULL))
		return;
	fuzz_check(rdma_encode_hello(&in, again, sizeof(again)) == RDMA_HELLO_BYTES);
	fuzz_check(memcmp(again, data, sizeof(again)) == 0);
}

static void header(const uint8_t *data, size_t bytes)
{
	struct rdma_message_header in;
	uint8_t again[RDMA_MESSAGE_HEADER_BYTES];
	if (rdma_decode_header(data, bytes, &in, NULL))
		return;
	fuzz_check(in.credits <= RDMA_CREDITS && in.length_bytes == bytes - sizeof(again));
	rdma_encode_header(&in, again);
	fuzz_check(memcmp(again, data, sizeof(again)) == 0);
}

static void keys(const uint8_t *data, size_t bytes)
{
	struct rdma_keys in;
	uint8_t again[RDMA_MESSAGE_BYTES];
	if (rdma_decode_keys(data, bytes, &in, NULL))
		return;
	for (uint32_t i = 0; i < in.count; i++) {
		fuzz_check(in.key[i].length_bytes > 0);
		fuzz_check(in.key[i].address + in.key[i].length_bytes > in.key[i].address);
		fuzz_check(in.key[i].offset_bytes + in.key[i].length_bytes > in.key[i].offset_bytes);
	}
	fuzz_check(rdma_encode_keys(&in, again) == bytes);
	fuzz_check(memcmp(again, data, bytes) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	if (!bytes)
		return 0;
	switch (data[0] % 3) {
	case 0:
		hello(data + 1, bytes - 1);
		break;
	case 1:
		header(data + 1, bytes - 1);
		break;
	default:
		keys(data + 1, bytes - 1);
	}
	return 0;
}
