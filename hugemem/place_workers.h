/* SPDX-License-Identifier: Apache-2.0 */
/*
 * place_workers.h - the two threads that do the engine's work without transfers. Internal to hugemem/.
 *
 * Purpose: one worker a class; a kick makes it call the engine until the engine says idle. No kick is lost.
 * Ownership: the configuration is copied; what it points to outlives the workers.
 * Threads: "hf-place-u", "hf-place-b". kick() and submit() may be called from any thread, also before start()
 * and after stop(). stop() joins and must not be called from a worker.
 * Units: none.
 * Errors: 0 or -errno with text.
 */
#ifndef HF_HUGEMEM_PLACE_WORKERS_H
#define HF_HUGEMEM_PLACE_WORKERS_H

#include "core/err.h"
#include "core/memory.h"

struct hf_place_workers;

int hf_place_workers_create(struct hf_place_workers **out,
			    int (*work)(void *engine, enum hf_work_class class), struct hf_err *err);
int hf_place_workers_start(struct hf_place_workers *workers, void *engine, struct hf_err *err);
void hf_place_workers_kick(struct hf_place_workers *workers, enum hf_work_class class);
/* Has the background worker run job(opaque) once, before its other work. -EBUSY: one has been submitted. */
int hf_place_workers_submit(struct hf_place_workers *workers, void (*job)(void *opaque), void *opaque);
void hf_place_workers_stop(struct hf_place_workers *workers);
void hf_place_workers_destroy(struct hf_place_workers *workers);

#endif
