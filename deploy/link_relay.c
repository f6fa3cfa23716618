/* SPDX-License-Identifier: Apache-2.0 */
#include "deploy/link_relay.h"

#include <errno.h>

static bool enter(struct hf_link_relay *relay, struct hf_transport *transport)
{
	hf_lock(&relay->lock);
	*transport = relay->transport;
	bool there = transport->ops != NULL;
	relay->inside += there;
	hf_unlock(&relay->lock);
	return there;
}

static void leave(struct hf_link_relay *relay)
{
	hf_lock(&relay->lock);
	if (--relay->inside == 0)
		hf_cond_broadcast(&relay->left);
	hf_unlock(&relay->lock);
}

static int relay_fetch(void *self, const struct hf_fetch *fetch)
{
	struct hf_transport transport;
	if (!enter(self, &transport))
		return -ENOTCONN;
	int result = transport.ops->fetch(transport.self, fetch);
	leave(self);
	return result;
}

static int relay_send(void *self, uint64_t epoch, uint32_t type, const void *payload, size_t length_bytes)
{
	struct hf_transport transport;
	if (!enter(self, &transport))
		return -ENOTCONN;
	int result = transport.ops->send(transport.self, epoch, type, payload, length_bytes);
	leave(self);
	return result;
}

void hf_link_relay_init(struct hf_link_relay *relay)
{
	*relay = (struct hf_link_relay){.open = true};
	hf_lock_init(&relay->lock, "hf_link_relay.lock", HF_RANK_LINK_RELAY);
	hf_cond_init(&relay->left);
}

void hf_link_relay_destroy(struct hf_link_relay *relay)
{
	if (!relay->open)
		return;
	hf_cond_destroy(&relay->left);
	hf_lock_destroy(&relay->lock);
	relay->open = false;
}

struct hf_transport hf_link_relay_port(struct hf_link_relay *relay)
{
	static const struct hf_transport_ops ops = {.fetch = relay_fetch, .send = relay_send};
	return (struct hf_transport){.ops = &ops, .self = relay};
}

void hf_link_relay_put(struct hf_link_relay *relay, struct hf_transport transport)
{
	hf_lock(&relay->lock);
	relay->transport = transport;
	hf_unlock(&relay->lock);
}

void hf_link_relay_take(struct hf_link_relay *relay)
{
	hf_lock(&relay->lock);
	relay->transport = (struct hf_transport){0};
	while (relay->inside > 0)
		hf_cond_wait(&relay->left, &relay->lock);
	hf_unlock(&relay->lock);
}
