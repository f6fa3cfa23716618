/* SPDX-License-Identifier: Apache-2.0 */
/* The messages of pre-copy; theory in wire.c. A set is described as PRESENCE describes what exists. */
#include "core/wire.h"

#include <inttypes.h>

#include "core/wire_cursor.h"

ssize_t hf_wire_encode_round(const struct hf_wire_presence *round, uint8_t *buffer, size_t bytes)
{
	return hf_wire_encode_presence(round, buffer, bytes);
}

int hf_wire_decode_round(const uint8_t *payload, size_t bytes, struct hf_wire_presence *round,
			 struct hf_err *err)
{
	int result = hf_wire_decode_presence(payload, bytes, round, err);
	if (result < 0)
		hf_err_prefix(err, "ROUND, which is laid out as PRESENCE");
	return result;
}

/* ---- ROUND_END ---------------------------------------------------------------------------------- */

static int check_round_end(const struct hf_wire_round_end *end, struct hf_err *err)
{
	const uint32_t known = HF_WIRE_ROUND_CUT | HF_WIRE_ROUND_FINAL | HF_WIRE_ROUND_WHOLE;
	const bool final = (end->flags & HF_WIRE_ROUND_FINAL) != 0;

	if (end->round == 0)
		return hf_wire_broken(err, "ROUND_END", "round is 0; rounds are numbered from 1");
	if (end->flags & ~known)
		return hf_wire_broken(err, "ROUND_END", "flags %#" PRIx32 " are unknown", end->flags);
	if (final && (end->flags & HF_WIRE_ROUND_CUT))
		return hf_wire_broken(err, "ROUND_END", "the final set is no round that could be cut");
	if (!final && (end->flags & HF_WIRE_ROUND_WHOLE))
		return hf_wire_broken(err, "ROUND_END", "flag WHOLE without FINAL");
	return 0;
}

ssize_t hf_wire_encode_round_end(const struct hf_wire_round_end *end, uint8_t *buffer, size_t bytes)
{
	struct writer writer = {.at = buffer, .left = bytes};

	if (check_round_end(end, NULL) < 0)
		return -EINVAL;
	put_u32(&writer, end->round);
	put_u32(&writer, end->flags);
	put_u64(&writer, end->limit_bytes_per_s);
	return writer_end(&writer);
}

int hf_wire_decode_round_end(const uint8_t *payload, size_t bytes, struct hf_wire_round_end *end,
			     struct hf_err *err)
{
	struct reader reader = {.at = payload, .left = bytes};
	struct hf_wire_round_end in = {0};
	in.round = get_u32(&reader);
	in.flags = get_u32(&reader);
	in.limit_bytes_per_s = get_u64(&reader);

	int result = hf_wire_check_end(&reader, "ROUND_END", bytes, err);
	if (result == 0)
		result = check_round_end(&in, err);
	if (result < 0)
		return result;
	*end = in;
	return 0;
}

/* ---- ROUND_DONE --------------------------------------------------------------------------------- */

static int check_round_done(const struct hf_wire_round_done *done, struct hf_err *err)
{
	if (done->round == 0)
		return hf_wire_broken(err, "ROUND_DONE", "round is 0; rounds are numbered from 1");
	return 0;
}

ssize_t hf_wire_encode_round_done(const struct hf_wire_round_done *done, uint8_t *buffer, size_t bytes)
{
	struct writer writer = {.at = buffer, .left = bytes};

	if (check_round_done(done, NULL) < 0)
		return -EINVAL;
	put_u32(&writer, done->round);
	put_u32(&writer, 0); // reserved
	put_u64(&writer, done->moved_bytes);
	put_u64(&writer, done->duration_ns);
	put_u64(&writer, done->rate_bytes_per_s);
	return writer_end(&writer);
}

int hf_wire_decode_round_done(const uint8_t *payload, size_t bytes, struct hf_wire_round_done *done,
			      struct hf_err *err)
{
	struct reader reader = {.at = payload, .left = bytes};
	struct hf_wire_round_done in = {0};
	in.round = get_u32(&reader);
	get_u32(&reader); // reserved
	in.moved_bytes = get_u64(&reader);
	in.duration_ns = get_u64(&reader);
	in.rate_bytes_per_s = get_u64(&reader);

	int result = hf_wire_check_end(&reader, "ROUND_DONE", bytes, err);
	if (result == 0)
		result = check_round_done(&in, err);
	if (result < 0)
		return result;
	*done = in;
	return 0;
}
