/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory in opening.h and PROTOCOL.md. A source that continues a session tries until it succeeds or hears
 * that it is in vain, so the class of a refusal counts. A listener that speaks no RECOVER would take it for
 * somebody new, and is left at once.
 */
#include "core/opening.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "core/text.h"

#define TIMEOUT_DEFAULT_MS 10000u

static const char *class_name(int class)
{
	return class == HF_FETCH_URGENT ? "urgent" : "background";
}

int hf_opening_check_options(uint32_t channels[static HF_FETCH_CLASSES], uint32_t *timeout_ms,
			     struct hf_err *err)
{
	static const uint32_t usual[HF_FETCH_CLASSES] = {[HF_FETCH_URGENT] = 1, [HF_FETCH_BACKGROUND] = 2};
	if (!*timeout_ms)
		*timeout_ms = TIMEOUT_DEFAULT_MS;
	if (*timeout_ms > HF_OPENING_TIMEOUT_MAX_MS)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "a timeout of %u ms is too long; %u is possible",
				  *timeout_ms, HF_OPENING_TIMEOUT_MAX_MS);
	for (int i = 0; i < HF_FETCH_CLASSES; i++) {
		if (!channels[i])
			channels[i] = usual[i];
		if (channels[i] > HF_WIRE_CHANNELS_MAX)
			return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
					  "%u %s channels are too many; %u are possible", channels[i],
					  class_name(i), HF_WIRE_CHANNELS_MAX);
	}
	return 0;
}

/* ---- source ------------------------------------------------------------------------------------ */

int hf_opening_check_offer(const struct hf_opening_offer *offer, struct hf_err *err)
{
	if (!offer->epoch)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "%s: the first connection's epoch is 1",
				  offer->uri);
	if (offer->check && offer->epoch > 1)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "%s: a check cannot be continued", offer->uri);
	return 0;
}

static uint64_t features_offered(const struct hf_opening_offer *offer)
{
	uint64_t features = HF_WIRE_FEATURES;
	features &= ~(offer->check ? HF_WIRE_FEATURE_RECOVER | HF_WIRE_FEATURE_FIRST : HF_WIRE_FEATURE_CHECK);
	if (!offer->precopy || offer->check)
		features &= ~HF_WIRE_FEATURE_PRECOPY;
	if (!offer->release || offer->check)
		features &= ~HF_WIRE_FEATURE_RELEASE;
	return features;
}

struct hf_wire_hello hf_opening_hello(const struct hf_opening_offer *offer, enum hf_wire_channel channel,
				      uint32_t index)
{
	struct hf_wire_hello hello = {.version_min = HF_WIRE_VERSION_MIN,
				      .version_max = HF_WIRE_VERSION_MAX,
				      .features = features_offered(offer),
				      .epoch = offer->epoch,
				      .channel = channel,
				      .index = index};
	memcpy(hello.session, offer->session, sizeof(hello.session));
	if (channel == HF_WIRE_CHANNEL_CONTROL)
		memcpy(hello.channels_wanted, offer->channels, sizeof(hello.channels_wanted));
	return hello;
}

int hf_opening_take_terms(const struct hf_opening_offer *offer, const struct hf_wire_hello_reply *reply,
			  struct hf_link_info *info, struct hf_err *err)
{
	if (reply->features & ~features_offered(offer))
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "%s: the destination takes features %#" PRIx64 "; %#" PRIx64
				  " were offered",
				  offer->uri, reply->features, features_offered(offer));
	if (offer->epoch > 1 && !(reply->features & HF_WIRE_FEATURE_RECOVER))
		return hf_err_set(err, HF_ERR_PEER, EOPNOTSUPP,
				  "%s: what listens there cannot continue a migration; is the right "
				  "destination running, and of the same release?",
				  offer->uri);
	for (int i = 0; i < HF_FETCH_CLASSES; i++)
		if (!reply->channels[i] || reply->channels[i] > offer->channels[i])
			return hf_err_set(err, HF_ERR_PEER, EPROTO,
					  "%s: the destination wants %u %s channels; 1 to %u were offered",
					  offer->uri, reply->channels[i], class_name(i), offer->channels[i]);
	*info = (struct hf_link_info){
	    .epoch = offer->epoch, .version = reply->version, .features = reply->features};
	memcpy(info->channels, reply->channels, sizeof(info->channels));
	return 0;
}

int hf_opening_check_repeated(const struct hf_opening_offer *offer, const struct hf_link_info *settled,
			      const struct hf_wire_hello_reply *reply, struct hf_err *err)
{
	if (reply->version != settled->version || reply->features != settled->features)
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "%s: the destination answers a page channel with version %u, features "
				  "%#" PRIx64 "; version %u, features %#" PRIx64
				  " were settled; one of the two programs is broken",
				  offer->uri, reply->version, reply->features, settled->version,
				  settled->features);
	for (int i = 0; i < HF_FETCH_CLASSES; i++)
		if (reply->channels[i])
			return hf_err_set(err, HF_ERR_PEER, EPROTO,
					  "%s: the destination answers a page channel with a number of "
					  "channels; one of the two programs is broken",
					  offer->uri);
	return 0;
}

/*
 * Being busy passes. To a session that the destination knows, having accepted its control channel or at least
 * not having disowned it, every other trouble can pass too: it was out of memory, or gave this connection up
 * while its page channels were on their way.
 */
static enum hf_err_class refusal_class(const struct hf_opening_offer *offer, enum hf_wire_channel channel,
				       uint32_t status)
{
	if (status == HF_WIRE_HELLO_BUSY)
		return HF_ERR_LINK;
	bool in_vain = status == HF_WIRE_HELLO_VERSION ||
		       (status == HF_WIRE_HELLO_SESSION && channel == HF_WIRE_CHANNEL_CONTROL);
	return in_vain || offer->epoch == 1 ? HF_ERR_PEER : HF_ERR_LINK;
}

int hf_opening_refused(const struct hf_opening_offer *offer, enum hf_wire_channel channel, uint32_t status,
		       const uint8_t *text, size_t text_bytes, struct hf_err *err)
{
	char printable[HF_WIRE_TEXT_MAX_BYTES + 1];
	int error_number = ECONNREFUSED;
	if (status == HF_WIRE_HELLO_VERSION)
		error_number = EPROTONOSUPPORT;
	else if (status == HF_WIRE_HELLO_BUSY)
		error_number = EBUSY;
	hf_text_make_printable(text, text_bytes, printable, sizeof(printable));
	return hf_err_set(err, refusal_class(offer, channel, status), error_number,
			  "%s: the destination refused: %s", offer->uri,
			  printable[0] ? printable : "(it gave no reason)");
}

/* ---- destination ------------------------------------------------------------------------------- */

void hf_opening_expect(struct hf_opening_guard *guard, const uint8_t *session, uint64_t epoch_min)
{
	guard->expects = session != NULL;
	guard->epoch_min = epoch_min;
	if (session)
		memcpy(guard->session, session, sizeof(guard->session));
}

/* Is somebody awaited, and is it not him who says this hello? */
static int check_expected(const struct hf_opening_guard *guard, const struct hf_wire_hello *hello,
			  uint64_t features, struct hf_err *err)
{
	bool expected = memcmp(hello->session, guard->session, sizeof(guard->session)) == 0;
	if (guard->expects && (!expected || (features & HF_WIRE_FEATURE_CHECK)))
		return hf_err_set(err, HF_ERR_PEER, EBUSY,
				  "this host is in the middle of another migration, whose link was lost; ask "
				  "again when that one has ended");
	return 0;
}

/* May this hello continue a session here, if it means to? */
static int check_epoch(const struct hf_opening_guard *guard, const struct hf_wire_hello *hello,
		       uint64_t features, struct hf_err *err)
{
	if (guard->expects && hello->epoch <= guard->epoch_min)
		return hf_err_set(err, HF_ERR_PEER, ESTALE,
				  "connection %" PRIu64 " of this migration comes too late: number %" PRIu64
				  " has been here before it",
				  hello->epoch, guard->epoch_min);
	if (hello->epoch > 1 && !guard->expects)
		return hf_err_set(err, HF_ERR_PEER, ESTALE,
				  "nobody here waits for connection %" PRIu64
				  " of that migration: it has ended here, or it never came as far",
				  hello->epoch);
	if (hello->epoch > 1 && !(features & HF_WIRE_FEATURE_RECOVER))
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "connection %" PRIu64
				  " of a migration, from a source that cannot continue one",
				  hello->epoch);
	return 0;
}

int hf_opening_settle(const struct hf_opening_guard *guard, const struct hf_wire_hello *hello,
		      struct hf_link_info *info, enum hf_wire_hello_status *refusal, struct hf_err *err)
{
	struct hf_link_info terms = {.epoch = hello->epoch};
	*refusal = HF_WIRE_HELLO_VERSION;
	int result = hf_wire_negotiate(hello, &terms.version, &terms.features, err);
	if (!result) {
		*refusal = HF_WIRE_HELLO_BUSY;
		result = check_expected(guard, hello, terms.features, err);
	}
	if (!result) {
		*refusal = HF_WIRE_HELLO_SESSION;
		result = check_epoch(guard, hello, terms.features, err);
	}
	if (result)
		return result;
	for (int i = 0; i < HF_FETCH_CLASSES; i++)
		terms.channels[i] = guard->channels[i] < hello->channels_wanted[i]
					? guard->channels[i]
					: hello->channels_wanted[i];
	*info = terms;
	return 0;
}

bool hf_opening_same_session(const struct hf_wire_hello *control, const struct hf_wire_hello *page)
{
	return memcmp(page->session, control->session, sizeof(page->session)) == 0 &&
	       page->epoch == control->epoch && page->version_min == control->version_min &&
	       page->version_max == control->version_max && page->features == control->features;
}

void hf_opening_note_trouble(struct hf_err *trouble, const char *listener_uri, const struct hf_err *why)
{
	if (trouble->class != HF_ERR_NONE)
		return;
	*trouble = *why;
	hf_err_prefix(trouble, "%s", listener_uri);
}

int hf_opening_nobody(const struct hf_err *trouble, const char *listener_uri, uint32_t timeout_ms,
		      struct hf_err *err)
{
	if (trouble->class == HF_ERR_NONE)
		return hf_err_set(err, HF_ERR_LINK, ETIMEDOUT, "%s: nobody connected within %u ms",
				  listener_uri, timeout_ms);
	if (err)
		*err = *trouble;
	return -trouble->errnum;
}
