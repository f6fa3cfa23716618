/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire.h - the bytes on the wire. PROTOCOL.md is the normative text; this is its codec.
 *
 * Purpose: encodes and decodes, field by field and big-endian, the hello that opens every channel, the
 * frames of the control channel and the request and reply headers of the page channels. Lengths
 * are checked for size, overflow and alignment before they are used.
 *
 * Ownership: encoders write to the caller's buffer; decoders copy out, except that decoded `bytes`
 * pointers point into the payload they were decoded from.
 * Threads: pure functions.
 * Units: bytes.
 * Errors: decoders return 0 or -EPROTO (class HF_ERR_PEER) and name the field; hf_wire_decode_advise() also
 * -ENOMEM. Decoders of fixed headers read the front of the buffer, decoders of payloads want it whole.
 * Encoders return the number of bytes written, or -ENOSPC, or -EINVAL for what a decoder would refuse.
 */
#ifndef HF_CORE_WIRE_H
#define HF_CORE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/err.h"
#include "core/ramblock.h"
#include "core/transport.h"

#define HF_WIRE_MAGIC	    "HUGEFERY" /* the first eight bytes on every channel, both ways */
#define HF_WIRE_VERSION_MIN 1u
#define HF_WIRE_VERSION_MAX 1u
/* The source serves the probe block (core/link_probe.h), the destination says LINK. */
#define HF_WIRE_FEATURE_LINK (1ull << 0)
/* This session only measures the link: CHECK instead of ADVISE. Offered by a checker only. */
#define HF_WIRE_FEATURE_CHECK (1ull << 1)
/* A later connection may continue the session, and the destination may say REFUSED. Never beside CHECK. */
#define HF_WIRE_FEATURE_RECOVER (1ull << 2)
/* The destination says PLACED, and the source may give those pages back. Never without RECOVER. */
#define HF_WIRE_FEATURE_RELEASE (1ull << 3)
/* Pages may be moved in rounds before the source's VM stops. Offered by a source that means to. */
#define HF_WIRE_FEATURE_PRECOPY (1ull << 4)
/* The source says FIRST. Never beside CHECK. */
#define HF_WIRE_FEATURE_FIRST (1ull << 5)
/* Those that this build speaks. */
#define HF_WIRE_FEATURES                                                                                     \
	(HF_WIRE_FEATURE_LINK | HF_WIRE_FEATURE_CHECK | HF_WIRE_FEATURE_RECOVER | HF_WIRE_FEATURE_RELEASE |  \
	 HF_WIRE_FEATURE_PRECOPY | HF_WIRE_FEATURE_FIRST)
#define HF_WIRE_SESSION_BYTES 16
#define HF_WIRE_CHANNELS_MAX  64u /* page channels per class */

#define HF_WIRE_CHUNK_MIN_BYTES	       4096u
#define HF_WIRE_CHUNK_MAX_BYTES	       (64u << 20)
#define HF_CHUNK_DEFAULT_BYTES	       (256u << 10)
#define HF_WIRE_FRAME_MAX_BYTES	       (1u << 20)   /* payload of one control frame */
#define HF_WIRE_DEVICE_STATE_MAX_BYTES (256u << 20) /* all DEVICE_DATA of one migration */

/* ---- opening a channel ------------------------------------------------------------------------ */

enum hf_wire_channel {
	HF_WIRE_CHANNEL_CONTROL = 0,
	HF_WIRE_CHANNEL_URGENT = 1,
	HF_WIRE_CHANNEL_BACKGROUND = 2,
};

/* First thing on every channel, from the side that connected. Fixed size. */
struct hf_wire_hello {
	uint32_t version_min, version_max;
	uint64_t features;
	uint8_t session[HF_WIRE_SESSION_BYTES]; /* random; ties the channels of one migration together */
	uint64_t epoch;				/* number of this connection within the session, from 1 */
	enum hf_wire_channel channel;
	uint32_t index;				    /* of the channel in its class; 0 for control */
	uint32_t channels_wanted[HF_FETCH_CLASSES]; /* control channel only, else 0 */
};
#define HF_WIRE_HELLO_BYTES 72

/* The answer. Fixed header, then text_bytes of UTF-8 (the reason of a refusal). */
struct hf_wire_hello_reply {
	uint32_t status; /* 0 accepted, else a positive errno-like code of PROTOCOL.md */
	uint32_t version;
	uint64_t features;
	uint32_t channels[HF_FETCH_CLASSES]; /* control channel only, else 0: how many to open */
	uint32_t text_bytes;
};
#define HF_WIRE_HELLO_REPLY_BYTES 40
#define HF_WIRE_TEXT_MAX_BYTES	  500u

enum hf_wire_hello_status {
	HF_WIRE_HELLO_ACCEPTED = 0,
	HF_WIRE_HELLO_VERSION = 1, /* no version in common */
	HF_WIRE_HELLO_BUSY = 2,	   /* another migration is under way */
	HF_WIRE_HELLO_SESSION = 3, /* unknown session, or channel not expected, or no longer */
	HF_WIRE_HELLO_REFUSED = 4, /* any other reason; see the text */
};

ssize_t hf_wire_encode_hello(const struct hf_wire_hello *hello, uint8_t *buffer, size_t bytes);
int hf_wire_decode_hello(const uint8_t *buffer, size_t bytes, struct hf_wire_hello *hello,
			 struct hf_err *err);
ssize_t hf_wire_encode_hello_reply(const struct hf_wire_hello_reply *reply, const char *text, uint8_t *buffer,
				   size_t bytes);
/* Decodes the fixed header; the text follows on the wire: make it printable (core/text.h) before use. */
int hf_wire_decode_hello_reply(const uint8_t *buffer, size_t bytes, struct hf_wire_hello_reply *reply,
			       struct hf_err *err);
/* The highest version and the features in common, -EPROTONOSUPPORT with a text that names both ranges. */
int hf_wire_negotiate(const struct hf_wire_hello *peer, uint32_t *version, uint64_t *features,
		      struct hf_err *err);

/* ---- control channel -------------------------------------------------------------------------- */

enum hf_wire_type {
	HF_WIRE_ADVISE = 1,	/* S->D  vm name, RAM blocks */
	HF_WIRE_READY = 2,	/* D->S  blocks accepted, memory ready: placement, chunk size */
	HF_WIRE_PRESENCE = 3,	/* S->D  which pages of a block exist; repeated */
	HF_WIRE_DEVICE = 4,	/* S->D  a piece of the device state; repeated */
	HF_WIRE_DEVICE_END = 5, /* S->D  the device state is whole: total length */
	HF_WIRE_LOADED = 6,	/* D->S  device state loaded, ready to run */
	HF_WIRE_RUN = 7,	/* S->D  the source has given the VM up: run it */
	HF_WIRE_RESUMED = 8,	/* D->S  it runs */
	HF_WIRE_COMPLETE = 9,	/* D->S  every page is placed; let go */
	HF_WIRE_FINISH = 10,	/* S->D  let go: the source's figures */
	HF_WIRE_FAIL = 11,	/* both  the migration failed: class, errno, text */
	HF_WIRE_WISH = 12,	/* S->D  what the operator at the source asks for; optional, repeatable */
	HF_WIRE_CHECK = 13,	/* S->D  measure the link; instead of ADVISE */
	HF_WIRE_LINK = 14,	/* D->S  what was measured */
	HF_WIRE_REFUSED = 15,	/* D->S  it never ran and never will: class, errno, text; answers RUN */
	HF_WIRE_PLACED = 16,	/* D->S  pages that are placed for good; repeated */
	/* With HF_WIRE_FEATURE_PRECOPY: */
	HF_WIRE_ROUND = 17,	 /* S->D  which pages of a block are of the next set; repeated */
	HF_WIRE_ROUND_END = 18,	 /* S->D  the set is whole; or how its round goes on */
	HF_WIRE_ROUND_DONE = 19, /* D->S  the round has ended: what it moved, and how fast */
	HF_WIRE_FIRST = 20,	 /* S->D  pages that loading the device state will touch; optional */
};

struct hf_wire_frame_header {
	uint32_t type;
	uint32_t length_bytes; /* of the payload */
};
#define HF_WIRE_FRAME_HEADER_BYTES 8

ssize_t hf_wire_encode_frame_header(const struct hf_wire_frame_header *header, uint8_t *buffer, size_t bytes);
/* Checks that the type is known and that the length is possible for it. */
int hf_wire_decode_frame_header(const uint8_t *buffer, size_t bytes, struct hf_wire_frame_header *header,
				struct hf_err *err);

#define HF_WIRE_VM_NAME_MAX 255

enum hf_wire_placement_wish {
	HF_WIRE_WISH_ANY = 0, /* the destination chooses */
	HF_WIRE_WISH_COPY = 1,
	HF_WIRE_WISH_CONTINUE = 2,
};

struct hf_wire_wish {
	uint32_t placement;	  /* enum hf_wire_placement_wish; other than ANY only before ADVISE */
	uint32_t hold_background; /* 1: serve faults only until told otherwise */
};
ssize_t hf_wire_encode_wish(const struct hf_wire_wish *wish, uint8_t *buffer, size_t bytes);
int hf_wire_decode_wish(const uint8_t *payload, size_t bytes, struct hf_wire_wish *wish, struct hf_err *err);

/* ADVISE: vm name and blocks. The decoder fills an initialised, empty registry. */
ssize_t hf_wire_encode_advise(const char *vm_name, const struct hf_ramblocks *blocks, uint8_t *buffer,
			      size_t bytes);
int hf_wire_decode_advise(const uint8_t *payload, size_t bytes, char vm_name[static HF_WIRE_VM_NAME_MAX + 1],
			  struct hf_ramblocks *blocks, struct hf_err *err);

struct hf_wire_ready {
	uint32_t placement; /* enum hf_placement, for the source's report */
	uint32_t chunk_bytes;
};
ssize_t hf_wire_encode_ready(const struct hf_wire_ready *ready, uint8_t *buffer, size_t bytes);
int hf_wire_decode_ready(const uint8_t *payload, size_t bytes, struct hf_wire_ready *ready,
			 struct hf_err *err);

/* PRESENCE: `pages` bits for pages first_page.. of block (the source's numbering). 1 = exists. */
struct hf_wire_presence {
	uint32_t block;
	uint32_t first_page; /* in the block */
	uint32_t pages;
	const uint8_t *bits;
	size_t bits_bytes;
};
#define HF_WIRE_PRESENCE_PAGES_MAX (4u << 20) /* pages in one frame */
ssize_t hf_wire_encode_presence(const struct hf_wire_presence *presence, uint8_t *buffer, size_t bytes);
int hf_wire_decode_presence(const uint8_t *payload, size_t bytes, struct hf_wire_presence *presence,
			    struct hf_err *err);

struct hf_wire_device_end {
	uint64_t total_bytes;
};
ssize_t hf_wire_encode_device_end(const struct hf_wire_device_end *end, uint8_t *buffer, size_t bytes);
int hf_wire_decode_device_end(const uint8_t *payload, size_t bytes, struct hf_wire_device_end *end,
			      struct hf_err *err);

struct hf_wire_finish {
	uint64_t downtime_ns;	/* source's clock: VM asked to stop .. RESUMED heard */
	uint64_t total_time_ns; /* source's clock: link up .. COMPLETE heard */
	uint64_t sent_bytes;	/* page payload the source sent */
};
ssize_t hf_wire_encode_finish(const struct hf_wire_finish *finish, uint8_t *buffer, size_t bytes);
int hf_wire_decode_finish(const uint8_t *payload, size_t bytes, struct hf_wire_finish *finish,
			  struct hf_err *err);

/*
 * FAIL carries a struct hf_err. Both make the text printable; a class or errno that has no place on the wire
 * is sent as local, EIO.
 */
ssize_t hf_wire_encode_fail(const struct hf_err *why, uint8_t *buffer, size_t bytes);
int hf_wire_decode_fail(const uint8_t *payload, size_t bytes, struct hf_err *why, struct hf_err *err);
/* REFUSED has the same payload. */
ssize_t hf_wire_encode_refused(const struct hf_err *why, uint8_t *buffer, size_t bytes);
int hf_wire_decode_refused(const uint8_t *payload, size_t bytes, struct hf_err *why, struct hf_err *err);

struct hf_wire_link {
	uint64_t round_trip_ns;
	uint64_t rate_bytes_per_s;
	uint64_t max_page_stall_ns; /* the destination's limit; 0 = none */
};
ssize_t hf_wire_encode_link(const struct hf_wire_link *link, uint8_t *buffer, size_t bytes);
int hf_wire_decode_link(const uint8_t *payload, size_t bytes, struct hf_wire_link *link, struct hf_err *err);

/* PLACED: pages of which the destination needs nothing any more, in the source's numbering. */
struct hf_wire_page_range {
	uint32_t block;
	uint32_t first_page; /* in the block */
	uint32_t pages;
};
#define HF_WIRE_PLACED_RANGES_MAX 128u
#define HF_WIRE_PLACED_MAX_BYTES  (4 + HF_WIRE_PLACED_RANGES_MAX * 12)
struct hf_wire_placed {
	uint32_t count;
	struct hf_wire_page_range ranges[HF_WIRE_PLACED_RANGES_MAX];
};
ssize_t hf_wire_encode_placed(const struct hf_wire_placed *placed, uint8_t *buffer, size_t bytes);
int hf_wire_decode_placed(const uint8_t *payload, size_t bytes, struct hf_wire_placed *placed,
			  struct hf_err *err);

/* ROUND has the payload of PRESENCE; 1 = of the set. */
ssize_t hf_wire_encode_round(const struct hf_wire_presence *round, uint8_t *buffer, size_t bytes);
int hf_wire_decode_round(const uint8_t *payload, size_t bytes, struct hf_wire_presence *round,
			 struct hf_err *err);

enum hf_wire_round_flags {
	HF_WIRE_ROUND_CUT = 1 << 0,   /* ask for nothing more of it, and say ROUND_DONE */
	HF_WIRE_ROUND_FINAL = 1 << 1, /* the VM stands still: what the set names is stale */
	HF_WIRE_ROUND_WHOLE = 1 << 2, /* with FINAL: say LOADED only when every page is there */
};
struct hf_wire_round_end {
	uint32_t round; /* from 1 */
	uint32_t flags;
	uint64_t limit_bytes_per_s; /* 0 = none */
};
ssize_t hf_wire_encode_round_end(const struct hf_wire_round_end *end, uint8_t *buffer, size_t bytes);
int hf_wire_decode_round_end(const uint8_t *payload, size_t bytes, struct hf_wire_round_end *end,
			     struct hf_err *err);

struct hf_wire_round_done {
	uint32_t round;
	uint64_t moved_bytes; /* page payload */
	uint64_t duration_ns;
	uint64_t rate_bytes_per_s; /* 0 = it moved nothing that could be measured */
};
ssize_t hf_wire_encode_round_done(const struct hf_wire_round_done *done, uint8_t *buffer, size_t bytes);
int hf_wire_decode_round_done(const uint8_t *payload, size_t bytes, struct hf_wire_round_done *done,
			      struct hf_err *err);

/* FIRST: pages in the source's numbering, the most urgent one first. */
struct hf_wire_page {
	uint32_t block;
	uint32_t page; /* in the block */
};
#define HF_WIRE_FIRST_PAGES_MAX 256u
#define HF_WIRE_FIRST_MAX_BYTES (4 + HF_WIRE_FIRST_PAGES_MAX * 8)
struct hf_wire_first {
	uint32_t count;
	struct hf_wire_page pages[HF_WIRE_FIRST_PAGES_MAX];
};
ssize_t hf_wire_encode_first(const struct hf_wire_first *first, uint8_t *buffer, size_t bytes);
int hf_wire_decode_first(const uint8_t *payload, size_t bytes, struct hf_wire_first *first,
			 struct hf_err *err);

/* DEVICE's payload is raw bytes; LOADED, RUN, RESUMED, COMPLETE and CHECK have none. */

/* ---- page channels ---------------------------------------------------------------------------- */

struct hf_wire_request {
	uint64_t id;
	uint64_t offset_bytes;
	uint32_t block; /* the source's numbering, or HF_WIRE_PROBE_BLOCK */
	uint32_t length_bytes;
};
#define HF_WIRE_REQUEST_BYTES 32
#define HF_WIRE_PROBE_BLOCK   UINT32_MAX /* with HF_WIRE_FEATURE_LINK, before READY */

struct hf_wire_reply {
	uint64_t id;
	uint64_t offset_bytes;
	uint32_t block;
	uint32_t length_bytes;
	bool zero; /* no payload follows */
};
#define HF_WIRE_REPLY_BYTES 32

ssize_t hf_wire_encode_request(const struct hf_wire_request *request, uint8_t *buffer, size_t bytes);
int hf_wire_decode_request(const uint8_t *buffer, size_t bytes, struct hf_wire_request *request,
			   struct hf_err *err);
ssize_t hf_wire_encode_reply(const struct hf_wire_reply *reply, uint8_t *buffer, size_t bytes);
int hf_wire_decode_reply(const uint8_t *buffer, size_t bytes, struct hf_wire_reply *reply,
			 struct hf_err *err);

const char *hf_wire_type_name(uint32_t type);

#endif
