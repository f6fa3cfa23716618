/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link_probe.h - how fast a link is, and so how long a thread would wait for one page.
 *
 * Purpose: before anything stops, the destination fetches meaningless bytes (the probe block) from the source
 * over the urgent page channels, as it will fetch pages that a thread waits for: some small chunks one after
 * the other for the round trip, then many at once for the rate. From both follows the time one page takes.
 * Theory in link_probe.c.
 *
 * Ownership: a probe copies the ports' tables; what they point to outlives it.
 * Threads: every function may be called from any thread; the probe has a lock of its own, a leaf, and holds
 * it over no port call. Units: nanoseconds, bytes, bytes a second. Errors: 0 or -errno.
 */
#ifndef HF_CORE_LINK_PROBE_H
#define HF_CORE_LINK_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/clock.h"
#include "core/err.h"
#include "core/ramblock.h"
#include "core/transport.h"

/* ---- what was measured ------------------------------------------------------------------------ */

struct hf_link_figures {
	uint64_t round_trip_ns;	   /* of a chunk of 4 KiB, the shortest seen; 0 = not measured */
	uint64_t rate_bytes_per_s; /* of the urgent channels together */
};

/* From asking for a page until its last byte has come, with nothing else on the link. Placing comes on top.
 */
uint64_t hf_link_page_stall_ns(const struct hf_link_figures *figures, uint64_t page_size_bytes);

/* "1.25 GB/s, round trip 0.21 ms" */
#define HF_LINK_TEXT_BYTES 96
const char *hf_link_text(const struct hf_link_figures *figures, char buffer[static HF_LINK_TEXT_BYTES]);

/*
 * -ETIME with a line that names the block, if a page of some block takes longer than max_page_stall_ns
 * (0 = any is fine).
 */
int hf_link_stall_check(const struct hf_link_figures *figures, const struct hf_ramblocks *blocks,
			uint64_t max_page_stall_ns, struct hf_err *err);

/* ---- source ----------------------------------------------------------------------------------- */

/* Answers a request for the probe block from `bytes`, HF_LINK_PROBE_BYTES of them; not all are zero. */
#define HF_LINK_PROBE_BYTES (2u << 20)
uint8_t *hf_link_probe_block_create(void);
int hf_link_probe_serve(const uint8_t *bytes, const struct hf_serve_request *request,
			struct hf_serve_reply *reply, struct hf_err *err);

/* ---- destination ------------------------------------------------------------------------------ */

struct hf_link_probe;

/* Memory for it is had here: at most 16 MiB, or two chunks. */
int hf_link_probe_create(struct hf_link_probe **out, const struct hf_clock *clock,
			 const struct hf_transport *transport, const struct hf_link_info *link,
			 uint32_t chunk_bytes);
/* No fetch of it is on its way. NULL is fine. */
void hf_link_probe_destroy(struct hf_link_probe *probe);

enum hf_link_probe_end {
	HF_LINK_PROBE_RUNS = 0,
	HF_LINK_PROBE_FINISHED, /* told once; the figures are there */
	HF_LINK_PROBE_FAILED,	/* told once; err says why; a link that is lost tells of itself too */
};

/* Posts the first fetch. */
enum hf_link_probe_end hf_link_probe_start(struct hf_link_probe *probe, struct hf_err *err);
/* Ids of a probe's fetches are below 2^32; an engine's own fetches must not be. */
static inline bool hf_link_probe_owns(uint64_t id)
{
	return id <= UINT32_MAX;
}
enum hf_link_probe_end hf_link_probe_done(struct hf_link_probe *probe, const struct hf_fetch_done *done,
					  struct hf_err *err);
struct hf_link_figures hf_link_probe_figures(struct hf_link_probe *probe);

#endif
