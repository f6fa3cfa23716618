/* SPDX-License-Identifier: Apache-2.0 */
/*
 * release_worker.h - gives pages of RAM files back to the host, in a thread of its own.
 *
 * Purpose: punching a hole may take long where pages are large; nobody who serves pages waits for it.
 * Ownership: create/destroy; the worker opens the files anew, for writing.
 * Threads: kick() any; release() the worker's thread, which calls work(); the others one at a time.
 * Units: bytes.
 * Errors: 0 or -errno with a line.
 */
#ifndef HF_HUGEMEM_RELEASE_WORKER_H
#define HF_HUGEMEM_RELEASE_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"

struct hf_release_worker;

/* The same file again, for writing; -errno. The descriptor is the caller's. */
int hf_ram_file_reopen(int fd, struct hf_err *err);

/* begin(): before the first hole; see guest_memory.h. May be NULL. */
int hf_release_worker_create(struct hf_release_worker **out, int (*begin)(void *, struct hf_err *),
			     void *opaque, struct hf_err *err);
/* The next file; they are numbered from 0. fd: of the RAM file, open in whatever way. */
int hf_release_worker_add(struct hf_release_worker *worker, int fd, struct hf_err *err);
/* Starts the thread "hf-release", which calls work() after each kick until it says false. */
int hf_release_worker_start(struct hf_release_worker *worker, bool (*work)(void *engine), void *engine,
			    struct hf_err *err);
void hf_release_worker_kick(struct hf_release_worker *worker);
int hf_release_worker_release(struct hf_release_worker *worker, uint32_t file, uint64_t offset_bytes,
			      uint64_t length_bytes, struct hf_err *err);
/* Joins the thread. NULL, and a worker that was not started, are fine; so for destroy. */
void hf_release_worker_stop(struct hf_release_worker *worker);
void hf_release_worker_destroy(struct hf_release_worker *worker);

#endif
