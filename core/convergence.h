/* SPDX-License-Identifier: Apache-2.0 */
/*
 * convergence.h - after a round of pre-copy: another one, the switchover, or postcopy?
 *
 * Purpose: decides from what a round has measured. The names mean what QEMU's mean: downtime-limit is the
 * longest pause the operator accepts, expected-downtime the pause if the VM were stopped now,
 * dirty-pages-rate how many pages the guest dirties a second. When exactly it does not converge stands in
 * convergence.c, and why it ends.
 *
 * Ownership: plain struct, no pointers, no destructor.
 * Threads: none inside; the caller holds its lock. Constant time.
 * Units: in the names.
 * Errors: none. No value is too large.
 */
#ifndef HF_CORE_CONVERGENCE_H
#define HF_CORE_CONVERGENCE_H

#include <stdbool.h>
#include <stdint.h>

#define HF_CONVERGENCE_SHRINK_PERCENT 10u
#define HF_CONVERGENCE_SHRINK_ROUNDS  3u

/* What comes when pre-copy does not converge. */
enum hf_convergence_else {
	HF_ELSE_POSTCOPY, /* hybrid */
	HF_ELSE_GO_ON,	  /* until it converges, or a deadline or the last round; as QEMU without postcopy */
	HF_ELSE_FAIL,
};

struct hf_convergence_config {
	uint64_t downtime_limit_ns;
	uint64_t
	    fixed_ns; /* what a switchover takes with no page to move: device state, messages; estimated */
	uint64_t deadline_ns; /* since pre-copy began; 0: none. It ends pre-copy under HF_ELSE_GO_ON too: with
				 FAIL */
	uint32_t rounds_max;  /* the same; 0: none */
	uint32_t shrink_percent; /* 1 to 99; 0: default */
	uint32_t shrink_rounds;	 /* 0: default */
	enum hf_convergence_else otherwise;
};

/* A round has ended and the dirty log was harvested. */
struct hf_convergence_round {
	uint64_t moved_bytes;
	uint64_t duration_ns;
	uint64_t elapsed_ns;	  /* since pre-copy began */
	uint64_t dirtied_pages;	  /* by the guest during the round */
	uint64_t dirtied_bytes;	  /* these, x their page sizes */
	uint64_t remaining_bytes; /* all that is to be moved yet: dirtied, and left out of earlier rounds */
	uint64_t next_bytes; /* of it, what another round would move: without the hot pages (hotness.h) */
	uint64_t rate_bytes_per_s; /* of the link, as the destination measured it; 0: the round's own */
};

enum hf_convergence_next {
	HF_NEXT_ROUND,
	HF_NEXT_SWITCH_OVER, /* stop the VM: what remains is moved within the pause */
	HF_NEXT_POSTCOPY,    /* stop the VM: what remains is moved after the pause */
	HF_NEXT_FAIL,
};

enum hf_convergence_reason {
	HF_REASON_SHRINKS,	/* the dirty set does, or has had too few rounds to */
	HF_REASON_WITHIN_LIMIT, /* the expected downtime is */
	HF_REASON_NOTHING_LEFT, /* no round could shorten the pause: if it is above the limit, by fixed_ns
				   alone */
	HF_REASON_STALLED,	/* the dirty set does not shrink */
	HF_REASON_ALL_HOT, /* another round would move nothing; told to go on, wait before the next harvest */
	HF_REASON_DEADLINE,
	HF_REASON_ROUNDS,
};

struct hf_convergence {
	/* Set by init. */
	struct hf_convergence_config config;

	/* For the report; 0 = not measured. */
	uint32_t rounds;
	uint64_t expected_downtime_ns;	/* UINT64_MAX: the link's rate is not known */
	uint64_t rate_bytes_per_s;	/* of the link; smoothed, as the dirty rates */
	uint64_t safe_rate_bytes_per_s; /* the lower of it and the last: what the downtime is reckoned with */
	uint64_t dirty_pages_per_s, dirty_bytes_per_s;
	enum hf_convergence_reason reason; /* of the last decision */

	/* Running. */
	uint64_t low_bytes;  /* what remained when the dirty set had last shrunk enough */
	uint32_t rounds_low; /* rounds since then */
};

/* initial_bytes: what the first round is to move. */
void hf_convergence_init(struct hf_convergence *convergence, const struct hf_convergence_config *config,
			 uint64_t initial_bytes);
/* The operator has changed something (migrate-set-parameters): counts from the next round. */
void hf_convergence_configure(struct hf_convergence *convergence, const struct hf_convergence_config *config);
enum hf_convergence_next hf_convergence_round_done(struct hf_convergence *convergence,
						   const struct hf_convergence_round *round);

/* The pause if so many bytes had to be moved within it; UINT64_MAX at a rate of 0. */
uint64_t hf_convergence_downtime_ns(uint64_t bytes, uint64_t rate_bytes_per_s, uint64_t fixed_ns);
/* "the dirty set no longer shrinks", ... */
const char *hf_convergence_reason_text(enum hf_convergence_reason reason);

#endif
