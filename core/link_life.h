/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link_life.h - a transport's connection from its opening to its end.
 *
 * Purpose: what is the same whatever carries the bytes: idle, up, down once and for one reason, and the gate
 * that keeps the threads of page channels silent until link_up() has been delivered.
 * Ownership: part of the transport's connection; its lock and condition also guard what else the transport
 * keeps under them (its queue of frames).
 * Threads: any, but for hf_link_life_init() and hf_link_life_destroy(). Those that read a field hold the
 * lock. Units: none. Errors: none.
 */
#ifndef HF_CORE_LINK_LIFE_H
#define HF_CORE_LINK_LIFE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "core/err.h"
#include "core/lock.h"

enum hf_link_phase {
	HF_LINK_IDLE, /* opened, not started: no events, nothing to fetch */
	HF_LINK_UP,
	HF_LINK_DOWN, /* its threads are leaving */
};

enum hf_link_gate { HF_LINK_GATE_CLOSED, HF_LINK_GATE_OPEN, HF_LINK_GATE_ABANDONED };

struct hf_link_life {
	struct hf_lock lock;
	struct hf_cond changed; /* phase, gate; and what else the transport wakes for */
	enum hf_link_gate gate;
	bool told_to_stop; /* by this side, not by a failure */
	struct hf_err why; /* set once, with HF_LINK_DOWN */
	_Atomic enum hf_link_phase phase;
};

/* All zero before. name: of the lock; it stays the caller's. */
void hf_link_life_init(struct hf_link_life *life, const char *name);
void hf_link_life_destroy(struct hf_link_life *life);

bool hf_link_life_is_up(const struct hf_link_life *life);
bool hf_link_life_is_down(const struct hf_link_life *life);
/* Idle becomes up. One that was ended before its start stays down. */
void hf_link_life_begin(struct hf_link_life *life);
/* The first caller's reason stays. True for him: he makes the threads leave. */
bool hf_link_life_end(struct hf_link_life *life, const struct hf_err *why, bool told_to_stop);

/* Waits until link_up() has been delivered. False: leave without a word. */
bool hf_link_life_wait_gate(struct hf_link_life *life);
/* open: or it never will be, since a thread could not be made. */
void hf_link_life_set_gate(struct hf_link_life *life, bool open);

#endif
