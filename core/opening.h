/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opening.h - what both sides of every transport agree on when a link is opened.
 *
 * Purpose: the rules of PROTOCOL.md "Opening a channel" that do not depend on how a hello travels: what a
 * source offers, what it takes for an answer, whom a destination lets in.
 * Ownership: nothing is kept; texts are the caller's.
 * Threads: pure functions.
 * Units: none.
 * Errors: 0 or -errno with a line; those of the source name the URI.
 */
#ifndef HF_CORE_OPENING_H
#define HF_CORE_OPENING_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"
#include "core/transport.h"
#include "core/wire.h"

#define HF_OPENING_TIMEOUT_MAX_MS 3600000u

/* What an operator wants of a transport; what is 0 becomes the default. */
int hf_opening_check_options(uint32_t channels[static HF_FETCH_CLASSES], uint32_t *timeout_ms,
			     struct hf_err *err);

/* ---- source ---- */

struct hf_opening_offer {
	const char *uri; /* for texts */
	uint8_t session[HF_WIRE_SESSION_BYTES];
	uint64_t epoch; /* 1 for the first link; above 1 continues the session */
	uint32_t channels[HF_FETCH_CLASSES];
	bool check;   /* a session that only measures the link */
	bool release; /* the destination may say what it has placed */
	bool precopy; /* pages are meant to move in rounds before the VM stops */
};

/* May this be offered at all? */
int hf_opening_check_offer(const struct hf_opening_offer *offer, struct hf_err *err);
/* The hello of a channel. */
struct hf_wire_hello hf_opening_hello(const struct hf_opening_offer *offer, enum hf_wire_channel channel,
				      uint32_t index);
/* Of the control channel: fills epoch, version, features and channels of *info. */
int hf_opening_take_terms(const struct hf_opening_offer *offer, const struct hf_wire_hello_reply *reply,
			  struct hf_link_info *info, struct hf_err *err);
/* Of a page channel: it only repeats what the control channel settled. */
int hf_opening_check_repeated(const struct hf_opening_offer *offer, const struct hf_link_info *settled,
			      const struct hf_wire_hello_reply *reply, struct hf_err *err);
/* The error for a refusal; its class says whether trying again may help. */
int hf_opening_refused(const struct hf_opening_offer *offer, enum hf_wire_channel channel, uint32_t status,
		       const uint8_t *text, size_t text_bytes, struct hf_err *err);

/* ---- destination ---- */

struct hf_opening_guard {
	uint32_t channels[HF_FETCH_CLASSES]; /* at most */
	bool expects;			     /* only who continues this session is let in */
	uint8_t session[HF_WIRE_SESSION_BYTES];
	uint64_t epoch_min; /* with a higher epoch than that */
};

/* session NULL: anybody who begins one. */
void hf_opening_expect(struct hf_opening_guard *guard, const uint8_t *session, uint64_t epoch_min);
/* What the two sides agree on; or the refusal, and its reason. */
int hf_opening_settle(const struct hf_opening_guard *guard, const struct hf_wire_hello *hello,
		      struct hf_link_info *info, enum hf_wire_hello_status *refusal, struct hf_err *err);
/* The first thing that went wrong stays in *trouble, which names the listener. */
void hf_opening_note_trouble(struct hf_err *trouble, const char *listener_uri, const struct hf_err *why);
/* Nobody whole has come in time: because of trouble, if there was any. */
int hf_opening_nobody(const struct hf_err *trouble, const char *listener_uri, uint32_t timeout_ms,
		      struct hf_err *err);
/* Does a page channel's hello repeat the control channel's? */
bool hf_opening_same_session(const struct hf_wire_hello *control, const struct hf_wire_hello *page);

#endif
