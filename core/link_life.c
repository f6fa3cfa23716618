/* SPDX-License-Identifier: Apache-2.0 */
/*
 *   [ IDLE ] --begin--> [ UP ] --first end--> [ DOWN ]
 *       `-------------------- first end ----------^
 *
 * Nothing leads out of DOWN, so who has seen it may rely on it without the lock.
 */
#include "core/link_life.h"

void hf_link_life_init(struct hf_link_life *life, const char *name)
{
	hf_lock_init(&life->lock, name, HF_RANK_LINK);
	hf_cond_init(&life->changed);
}

void hf_link_life_destroy(struct hf_link_life *life)
{
	hf_cond_destroy(&life->changed);
	hf_lock_destroy(&life->lock);
}

bool hf_link_life_is_up(const struct hf_link_life *life)
{
	return atomic_load(&life->phase) == HF_LINK_UP;
}

bool hf_link_life_is_down(const struct hf_link_life *life)
{
	return atomic_load(&life->phase) == HF_LINK_DOWN;
}

void hf_link_life_begin(struct hf_link_life *life)
{
	enum hf_link_phase idle = HF_LINK_IDLE;
	atomic_compare_exchange_strong(&life->phase, &idle, HF_LINK_UP);
}

bool hf_link_life_end(struct hf_link_life *life, const struct hf_err *why, bool told_to_stop)
{
	hf_lock(&life->lock);
	bool first = !hf_link_life_is_down(life);
	if (first) {
		life->why = *why;
		life->told_to_stop = told_to_stop;
		atomic_store(&life->phase, HF_LINK_DOWN);
		hf_cond_broadcast(&life->changed);
	}
	hf_unlock(&life->lock);
	return first;
}

bool hf_link_life_wait_gate(struct hf_link_life *life)
{
	hf_lock(&life->lock);
	while (life->gate == HF_LINK_GATE_CLOSED)
		hf_cond_wait(&life->changed, &life->lock);
	bool open = life->gate == HF_LINK_GATE_OPEN;
	hf_unlock(&life->lock);
	return open;
}

void hf_link_life_set_gate(struct hf_link_life *life, bool open)
{
	hf_lock(&life->lock);
	life->gate = open ? HF_LINK_GATE_OPEN : HF_LINK_GATE_ABANDONED;
	hf_cond_broadcast(&life->changed);
	hf_unlock(&life->lock);
}
