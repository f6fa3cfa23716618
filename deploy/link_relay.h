/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link_relay.h - one transport port for an engine whose links come and go.
 *
 * Purpose: an engine is given its transport once; a migration that goes on over another link has another one.
 * The relay passes calls on to the link that is in it, or answers -ENOTCONN, and hands a link out for closing
 * only when no call is inside it any more.
 * Ownership: the link stays the caller's.
 * Threads: the port from any thread; put and take by one thread.
 * Units: none.
 * Errors: those of the link; -ENOTCONN while there is none.
 */
#ifndef HF_DEPLOY_LINK_RELAY_H
#define HF_DEPLOY_LINK_RELAY_H

#include <stdbool.h>
#include <stdint.h>

#include "core/lock.h"
#include "core/transport.h"

struct hf_link_relay {
	struct hf_lock lock;
	struct hf_cond left;
	/* Under the lock. */
	struct hf_transport transport; /* ops NULL: none */
	uint32_t inside;	       /* calls under way */
	bool open;		       /* init was called */
};

void hf_link_relay_init(struct hf_link_relay *relay);
void hf_link_relay_destroy(struct hf_link_relay *relay); /* a zeroed one is fine */
struct hf_transport hf_link_relay_port(struct hf_link_relay *relay);
void hf_link_relay_put(struct hf_link_relay *relay, struct hf_transport transport);
/* Waits until nobody is in the link; from then on nobody comes in. */
void hf_link_relay_take(struct hf_link_relay *relay);

#endif
