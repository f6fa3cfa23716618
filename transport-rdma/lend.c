/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: memory and its keys.
 *
 *   destination                                source
 *     lend(): registers its landings             lend(): notes what it has
 *     WANT_KEYS  ------------------------------> registers, in a thread of its own: it may take long, and a
 *                                                silent side would be taken for dead
 *     checks, sorts nothing (they come sorted) <- KEYS ... KEYS (last)
 *     fetches that waited are posted
 *
 * The source registers for reading only, the blocks of this migration alone, and nothing before the
 * destination has asked, which it does when it has agreed to the blocks. Registering allocates every page
 * that is not there (it writes to the page tables of a writable mapping), so whoever wants to know which
 * pages exist must have looked before, see hugemem/. Both sides take all registrations back before they say
 * link_down().
 */
#include "transport-rdma/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Under no lock. False: the link is down, nothing may be registered. */
static bool begin_lending(struct hf_rdma *rdma)
{
	hf_lock(&rdma->life.lock);
	while (rdma->lending && !hf_link_life_is_down(&rdma->life))
		hf_cond_wait(&rdma->life.changed, &rdma->life.lock);
	bool may = !hf_link_life_is_down(&rdma->life);
	rdma->lending |= may;
	hf_unlock(&rdma->life.lock);
	return may;
}

static void end_lending(struct hf_rdma *rdma, uint64_t began_ns, bool registered)
{
	hf_lock(&rdma->life.lock);
	rdma->lending = false;
	if (registered)
		atomic_store(&rdma->registration_ns, rdma_now_ns() - began_ns);
	hf_cond_broadcast(&rdma->life.changed);
	hf_unlock(&rdma->life.lock);
}

static int is_down(struct hf_rdma *rdma, struct hf_err *err)
{
	hf_lock(&rdma->life.lock);
	struct hf_err why = rdma->life.why;
	hf_unlock(&rdma->life.lock);
	if (err)
		*err = why;
	return why.errnum ? -why.errnum : -ENOTCONN;
}

/* ---- source ----------------------------------------------------------------------------------- */

static int note_ranges(struct hf_rdma *rdma, const struct hf_lent_range *ranges, uint32_t count,
		       struct hf_err *err)
{
	struct hf_lent_range *copy = calloc(count ? count : 1, sizeof(*copy));
	if (!copy)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	memcpy(copy, ranges, count * sizeof(*copy));
	free(rdma->ranges);
	rdma->ranges = copy;
	rdma->range_count = count;
	return 0;
}

static int register_ranges(struct hf_rdma *rdma, int access, struct hf_err *err)
{
	int result = 0;
	for (uint32_t i = 0; i < rdma->range_count && !result; i++)
		result =
		    rdma_register(rdma->pd, &rdma->limits, rdma->ranges[i].address,
				  rdma->ranges[i].length_bytes, access, &rdma->life, &rdma->regions, err);
	if (result)
		hf_err_prefix(err, "%s", rdma->name);
	return result;
}

/* Regions are in the order of the ranges, each range from its start. */
static int make_keys(struct hf_rdma *rdma, struct hf_err *err)
{
	uint32_t count = rdma->regions.count, region = 0;
	struct rdma_key *keys = calloc(count ? count : 1, sizeof(*keys));
	if (!keys || count > RDMA_KEYS_MAX) {
		free(keys);
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "%s: %u registrations are too many", rdma->name,
				  count);
	}
	for (uint32_t block = 0; block < rdma->range_count; block++)
		for (uint64_t done_bytes = 0; done_bytes < rdma->ranges[block].length_bytes; region++) {
			const struct rdma_region *part = &rdma->regions.region[region];
			keys[region] = (struct rdma_key){.block = block,
							 .rkey = part->mr->rkey,
							 .address = part->address,
							 .offset_bytes = done_bytes,
							 .length_bytes = part->length_bytes};
			done_bytes += part->length_bytes;
		}
	hf_lock(&rdma->life.lock);
	rdma->own_keys = keys;
	rdma->own_key_count = count;
	rdma->own_keys_ready = true;
	hf_unlock(&rdma->life.lock);
	return 0;
}

static void *register_main(void *argument)
{
	struct hf_rdma *rdma = argument;
	struct hf_err err = HF_ERR_INIT;
	uint64_t began_ns = rdma_now_ns();
	if (!begin_lending(rdma))
		return NULL;
	int result = register_ranges(rdma, IBV_ACCESS_REMOTE_READ, &err);
	if (!result)
		result = make_keys(rdma, &err);
	end_lending(rdma, began_ns, !result);
	if (result)
		rdma_fail(rdma, &err);
	rdma_wake(rdma);
	return NULL;
}

int rdma_lend_begin(struct hf_rdma *rdma)
{
	if (rdma->role != RDMA_ROLE_SOURCE || rdma->register_runs)
		return -EPROTO;
	int result = rdma_thread_create(&rdma->register_thread, "hf-rdma-reg", register_main, rdma);
	rdma->register_runs = !result;
	return result;
}

/* ---- destination ------------------------------------------------------------------------------ */

static int wait_keys(struct hf_rdma *rdma, struct hf_err *err)
{
	hf_lock(&rdma->life.lock);
	while (!atomic_load(&rdma->keys_known) && !hf_link_life_is_down(&rdma->life) && rdma->events)
		hf_cond_wait(&rdma->life.changed, &rdma->life.lock);
	bool down = hf_link_life_is_down(&rdma->life);
	hf_unlock(&rdma->life.lock);
	return down ? is_down(rdma, err) : 0;
}

static int lend_landings(struct hf_rdma *rdma, const struct hf_lent_range *ranges, uint32_t count, bool wait,
			 struct hf_err *err)
{
	uint64_t began_ns = rdma_now_ns();
	if (!begin_lending(rdma))
		return is_down(rdma, err);
	int result = rdma->lent ? hf_err_set(err, HF_ERR_LOCAL, EALREADY, "%s: lent already", rdma->name) : 0;
	if (!result)
		result = note_ranges(rdma, ranges, count, err);
	if (!result)
		result = register_ranges(rdma, IBV_ACCESS_LOCAL_WRITE, err);
	if (!result)
		atomic_store(&rdma->landings_known, true);
	hf_lock(&rdma->life.lock);
	rdma->lent |= !result;
	hf_unlock(&rdma->life.lock);
	end_lending(rdma, began_ns, !result);
	if (result)
		return result;
	rdma_wake(rdma);
	return wait ? wait_keys(rdma, err) : 0;
}

int hf_rdma_lend(struct hf_rdma *rdma, const struct hf_lent_range *ranges, uint32_t count, bool wait,
		 struct hf_err *err)
{
	if (rdma->role == RDMA_ROLE_SOURCE)
		return note_ranges(rdma, ranges, count, err);
	return lend_landings(rdma, ranges, count, wait, err);
}

uint64_t hf_rdma_registration_ns(const struct hf_rdma *rdma)
{
	return atomic_load(&rdma->registration_ns);
}

static bool follows(const struct rdma_key *before, const struct rdma_key *key)
{
	return before->block < key->block ||
	       (before->block == key->block &&
		before->offset_bytes + before->length_bytes <= key->offset_bytes);
}

static int add_key(struct hf_rdma *rdma, const struct rdma_key *key, struct hf_err *err)
{
	bool in_order = !rdma->key_count || follows(&rdma->keys[rdma->key_count - 1], key);
	if (!in_order || key->block >= HF_RAMBLOCKS_MAX || rdma->key_count >= RDMA_KEYS_MAX)
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "the source's key for block %" PRIu32 ", offset %" PRIu64
				  " is out of order or one too many; one of the two programs is broken",
				  key->block, key->offset_bytes);
	rdma->keys[rdma->key_count++] = *key;
	return 0;
}

int rdma_lend_take_keys(struct hf_rdma *rdma, const struct rdma_keys *keys, struct hf_err *err)
{
	bool probe = keys->count == 1 && keys->key[0].block == HF_WIRE_PROBE_BLOCK;
	if (rdma->role != RDMA_ROLE_DESTINATION || atomic_load(&rdma->keys_known) ||
	    (probe ? keys->last || atomic_load(&rdma->probe_key_known) : !rdma->control.want_sent))
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "the peer sent keys that nobody asked for; one of the two programs is "
				  "broken");
	if (probe) {
		rdma->probe_key = keys->key[0];
		atomic_store(&rdma->probe_key_known, true);
		return 0;
	}
	struct rdma_key *grown =
	    reallocarray(rdma->keys, rdma->key_count + keys->count + 1, sizeof(*rdma->keys));
	if (!grown)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	rdma->keys = grown;
	for (uint32_t i = 0; i < keys->count; i++) {
		int result = add_key(rdma, &keys->key[i], err);
		if (result)
			return result;
	}
	if (keys->last) {
		hf_lock(&rdma->life.lock);
		atomic_store(&rdma->keys_known, true);
		hf_cond_broadcast(&rdma->life.changed);
		hf_unlock(&rdma->life.lock);
	}
	return 0;
}

/* ---- the end ---------------------------------------------------------------------------------- */

void rdma_lend_end(struct hf_rdma *rdma)
{
	if (rdma->register_runs)
		pthread_join(rdma->register_thread, NULL);
	rdma->register_runs = false;
	hf_lock(&rdma->life.lock);
	while (rdma->lending)
		hf_cond_wait(&rdma->life.changed, &rdma->life.lock);
	hf_unlock(&rdma->life.lock);
	rdma_deregister_all(&rdma->regions);
	rdma_deregister_all(&rdma->probe_region);
}
