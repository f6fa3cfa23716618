/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hello that opens every channel, its answer, and the choice of a version. The layout of both is the same
 * in all versions; theory in wire.c.
 */
#include "core/wire.h"

#include <inttypes.h>

#include "core/text.h"
#include "core/wire_cursor.h"

static int check_magic(struct reader *reader, const char *message, size_t bytes, struct hf_err *err)
{
	const uint8_t *magic = get_bytes(reader, sizeof(HF_WIRE_MAGIC) - 1);
	if (!magic)
		return hf_wire_cut_short(err, message, bytes);
	if (memcmp(magic, HF_WIRE_MAGIC, sizeof(HF_WIRE_MAGIC) - 1) != 0)
		return hf_err_set(
		    err, HF_ERR_PEER, EPROTO,
		    "the peer is not Hugeferry: its first bytes are not the magic of a %s; check the "
		    "address and the port",
		    message);
	return 0;
}

/* ---- HELLO -------------------------------------------------------------------------------------- */

static int check_hello_channel(const struct hf_wire_hello *hello, struct hf_err *err)
{
	if (hello->channel == HF_WIRE_CHANNEL_CONTROL) {
		if (hello->index != 0)
			return hf_wire_broken(err, "HELLO", "index is %" PRIu32 " on the control channel",
					      hello->index);
		for (int i = 0; i < HF_FETCH_CLASSES; i++)
			if (hello->channels_wanted[i] < 1 || hello->channels_wanted[i] > HF_WIRE_CHANNELS_MAX)
				return hf_wire_broken(err, "HELLO",
						      "channels_wanted[%d] is %" PRIu32 ", not 1 to %u", i,
						      hello->channels_wanted[i], HF_WIRE_CHANNELS_MAX);
		return 0;
	}
	if (hello->channel != HF_WIRE_CHANNEL_URGENT && hello->channel != HF_WIRE_CHANNEL_BACKGROUND)
		return hf_wire_broken(err, "HELLO", "channel is %u, no known kind", (unsigned)hello->channel);
	if (hello->index >= HF_WIRE_CHANNELS_MAX)
		return hf_wire_broken(err, "HELLO", "index is %" PRIu32 ", the limit is %u channels",
				      hello->index, HF_WIRE_CHANNELS_MAX);
	for (int i = 0; i < HF_FETCH_CLASSES; i++)
		if (hello->channels_wanted[i] != 0)
			return hf_wire_broken(err, "HELLO",
					      "channels_wanted[%d] is %" PRIu32 " on a page channel", i,
					      hello->channels_wanted[i]);
	return 0;
}

static int check_hello(const struct hf_wire_hello *hello, struct hf_err *err)
{
	if (hello->version_min == 0 || hello->version_min > hello->version_max)
		return hf_wire_broken(err, "HELLO",
				      "version_min %" PRIu32 " and version_max %" PRIu32 " are no range",
				      hello->version_min, hello->version_max);
	if (hello->epoch == 0)
		return hf_wire_broken(err, "HELLO", "epoch is 0; connections are numbered from 1");
	return check_hello_channel(hello, err);
}

ssize_t hf_wire_encode_hello(const struct hf_wire_hello *hello, uint8_t *buffer, size_t bytes)
{
	struct writer writer = {.at = buffer, .left = bytes};

	if (check_hello(hello, NULL) < 0)
		return -EINVAL;
	put_bytes(&writer, HF_WIRE_MAGIC, sizeof(HF_WIRE_MAGIC) - 1);
	put_u32(&writer, hello->version_min);
	put_u32(&writer, hello->version_max);
	put_u64(&writer, hello->features);
	put_bytes(&writer, hello->session, sizeof(hello->session));
	put_u64(&writer, hello->epoch);
	put_u32(&writer, (uint32_t)hello->channel);
	put_u32(&writer, hello->index);
	put_u32(&writer, hello->channels_wanted[HF_FETCH_URGENT]);
	put_u32(&writer, hello->channels_wanted[HF_FETCH_BACKGROUND]);
	put_u64(&writer, 0); // reserved
	return writer_end(&writer);
}

int hf_wire_decode_hello(const uint8_t *buffer, size_t bytes, struct hf_wire_hello *hello, struct hf_err *err)
{
	struct reader reader = {.at = buffer, .left = bytes};
	struct hf_wire_hello in = {0};

	int result = check_magic(&reader, "HELLO", bytes, err);
	if (result < 0)
		return result;
	if (bytes < HF_WIRE_HELLO_BYTES)
		return hf_wire_cut_short(err, "HELLO", bytes);
	in.version_min = get_u32(&reader);
	in.version_max = get_u32(&reader);
	in.features = get_u64(&reader);
	memcpy(in.session, get_bytes(&reader, sizeof(in.session)), sizeof(in.session));
	in.epoch = get_u64(&reader);
	in.channel = (enum hf_wire_channel)get_u32(&reader);
	in.index = get_u32(&reader);
	in.channels_wanted[HF_FETCH_URGENT] = get_u32(&reader);
	in.channels_wanted[HF_FETCH_BACKGROUND] = get_u32(&reader);

	result = check_hello(&in, err);
	if (result < 0)
		return result;
	*hello = in;
	return 0;
}

/* ---- HELLO_REPLY -------------------------------------------------------------------------------- */

static int check_hello_reply(const struct hf_wire_hello_reply *reply, struct hf_err *err)
{
	if (reply->text_bytes > HF_WIRE_TEXT_MAX_BYTES)
		return hf_wire_broken(err, "HELLO_REPLY", "text_bytes is %" PRIu32 ", the limit is %u",
				      reply->text_bytes, HF_WIRE_TEXT_MAX_BYTES);
	if (reply->status != HF_WIRE_HELLO_ACCEPTED)
		return 0; // the other fields have no meaning in a refusal

	if (reply->version < HF_WIRE_VERSION_MIN || reply->version > HF_WIRE_VERSION_MAX)
		return hf_wire_broken(err, "HELLO_REPLY", "version %" PRIu32 " was not offered",
				      reply->version);
	if (reply->features & ~HF_WIRE_FEATURES)
		return hf_wire_broken(err, "HELLO_REPLY", "features %#" PRIx64 " were not offered",
				      reply->features);
	for (int i = 0; i < HF_FETCH_CLASSES; i++)
		if (reply->channels[i] > HF_WIRE_CHANNELS_MAX)
			return hf_wire_broken(err, "HELLO_REPLY",
					      "channels[%d] is %" PRIu32 ", the limit is %u", i,
					      reply->channels[i], HF_WIRE_CHANNELS_MAX);
	return 0;
}

ssize_t hf_wire_encode_hello_reply(const struct hf_wire_hello_reply *reply, const char *text, uint8_t *buffer,
				   size_t bytes)
{
	struct writer writer = {.at = buffer, .left = bytes};
	char clean[HF_WIRE_TEXT_MAX_BYTES + 1] = "";
	struct hf_wire_hello_reply out = *reply;

	if (text)
		hf_text_make_printable((const uint8_t *)text, strlen(text), clean, sizeof(clean));
	out.text_bytes = (uint32_t)strlen(clean);
	if (check_hello_reply(&out, NULL) < 0)
		return -EINVAL;
	put_bytes(&writer, HF_WIRE_MAGIC, sizeof(HF_WIRE_MAGIC) - 1);
	put_u32(&writer, out.status);
	put_u32(&writer, out.version);
	put_u64(&writer, out.features);
	put_u32(&writer, out.channels[HF_FETCH_URGENT]);
	put_u32(&writer, out.channels[HF_FETCH_BACKGROUND]);
	put_u32(&writer, out.text_bytes);
	put_u32(&writer, 0); // reserved
	put_bytes(&writer, clean, out.text_bytes);
	return writer_end(&writer);
}

int hf_wire_decode_hello_reply(const uint8_t *buffer, size_t bytes, struct hf_wire_hello_reply *reply,
			       struct hf_err *err)
{
	struct reader reader = {.at = buffer, .left = bytes};
	struct hf_wire_hello_reply in = {0};

	int result = check_magic(&reader, "HELLO_REPLY", bytes, err);
	if (result < 0)
		return result;
	if (bytes < HF_WIRE_HELLO_REPLY_BYTES)
		return hf_wire_cut_short(err, "HELLO_REPLY", bytes);
	in.status = get_u32(&reader);
	in.version = get_u32(&reader);
	in.features = get_u64(&reader);
	in.channels[HF_FETCH_URGENT] = get_u32(&reader);
	in.channels[HF_FETCH_BACKGROUND] = get_u32(&reader);
	in.text_bytes = get_u32(&reader);

	result = check_hello_reply(&in, err);
	if (result < 0)
		return result;
	*reply = in;
	return 0;
}

int hf_wire_negotiate(const struct hf_wire_hello *peer, uint32_t *version, uint64_t *features,
		      struct hf_err *err)
{
	uint32_t lowest = peer->version_min > HF_WIRE_VERSION_MIN ? peer->version_min : HF_WIRE_VERSION_MIN;
	uint32_t highest = peer->version_max < HF_WIRE_VERSION_MAX ? peer->version_max : HF_WIRE_VERSION_MAX;

	if (lowest > highest)
		return hf_err_set(err, HF_ERR_PEER, EPROTONOSUPPORT,
				  "no protocol version in common: the peer speaks %" PRIu32 " to %" PRIu32
				  ", this side %u to %u; install the same release on both hosts",
				  peer->version_min, peer->version_max, HF_WIRE_VERSION_MIN,
				  HF_WIRE_VERSION_MAX);
	*version = highest;
	*features = peer->features & HF_WIRE_FEATURES;
	if (!(*features & HF_WIRE_FEATURE_LINK)) /* nothing could be measured */
		*features &= ~HF_WIRE_FEATURE_CHECK;
	if (*features & HF_WIRE_FEATURE_CHECK) /* there is nothing to continue, nor to move */
		*features &= ~(HF_WIRE_FEATURE_RECOVER | HF_WIRE_FEATURE_PRECOPY | HF_WIRE_FEATURE_FIRST);
	if (!(*features & HF_WIRE_FEATURE_RECOVER)) /* a lost link must not cost the pages that are left */
		*features &= ~HF_WIRE_FEATURE_RELEASE;
	return 0;
}
