/* SPDX-License-Identifier: Apache-2.0 */
#include "perf/postcopy.h"

#include <errno.h>
#include <linux/memfd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/destination.h"
#include "deploy/monotonic.h"
#include "hugemem/attach.h"
#include "hugemem/hugepool.h"
#include "perf/halves.h"

#define STAGING_SLOTS	16u
#define MFD_SIZE_SHIFT	26 /* MFD_HUGE_SHIFT of linux/memfd.h */
#define PAGE_SIZE_SHIFT 21u

struct hf_postcopy {
	uint64_t bytes, added_pages;
	cpu_set_t cpus;
	int fd; /* stored + 1 */
	uint8_t *ram;
	char attach_path[64];
	struct hf_attach *attach;
	struct hf_attach_client *client;
	struct hf_ramblocks blocks;
	struct hf_toucher *toucher;
	uint32_t thread_ids[HF_TOUCHER_VCPUS_MAX];
	struct hf_incoming_memory *incoming;
	struct hf_destination *engine;
	struct hf_moving_memory memory;
	struct hf_moving *moving;
};

/* ---- between memory and engine ----------------------------------------------------------------- */

static void memory_ready(void *self, int result, const struct hf_err *err)
{
	hf_destination_memory_ready(((struct hf_postcopy *)self)->engine, result, err);
}

static void memory_fault(void *self, uint32_t block, uint64_t page, uint32_t thread_id, uint64_t arrived_ns)
{
	hf_destination_fault(((struct hf_postcopy *)self)->engine, block, page, thread_id, arrived_ns);
}

static void memory_failed(void *self, const struct hf_err *err)
{
	hf_destination_fail(((struct hf_postcopy *)self)->engine, err);
}

static int memory_work(void *self, enum hf_work_class class)
{
	return hf_destination_work(((struct hf_postcopy *)self)->engine, class);
}

static int start_memory(void *self, struct hf_destination *engine, struct hf_err *err)
{
	struct hf_postcopy *p = self;
	p->engine = engine;
	return hf_incoming_memory_start(p->incoming, p, err);
}

static void stop_memory(void *self)
{
	hf_incoming_memory_stop(((struct hf_postcopy *)self)->incoming);
}

/* ---- making ------------------------------------------------------------------------------------ */

static int make_ram(struct hf_postcopy *p, const struct hf_postcopy_config *config, struct hf_err *err)
{
	uint64_t pages = (uint64_t)config->pages + STAGING_SLOTS + 1; /* and the page of zeros */
	p->bytes = config->pages * HF_POSTCOPY_PAGE_BYTES;
	int result = hf_hugepages_reserve(HF_POSTCOPY_PAGE_BYTES, pages, &p->added_pages, err);
	if (result)
		return result;
	p->fd =
	    1 + memfd_create("hf-postcopy", MFD_CLOEXEC | MFD_HUGETLB | PAGE_SIZE_SHIFT << MFD_SIZE_SHIFT);
	uint8_t *ram = MAP_FAILED;
	if (p->fd && ftruncate(p->fd - 1, (off_t)p->bytes) == 0)
		ram = mmap(NULL, p->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd - 1, 0);
	if (ram == MAP_FAILED)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "no huge pages can be mapped: %s",
				  strerror(errno));
	p->ram = ram;
	return 0;
}

static int lend(struct hf_postcopy *p, struct hf_err *err)
{
	struct hf_attach_options options = {.socket_path = p->attach_path, .vm_name = "to"};
	struct hf_attach_region region = {.idstr = "ram",
					  .address = p->ram,
					  .length_bytes = p->bytes,
					  .page_size_bytes = HF_POSTCOPY_PAGE_BYTES,
					  .fd = p->fd - 1};
	snprintf(p->attach_path, sizeof(p->attach_path), "/tmp/hf-bench-%d-attach", (int)getpid());
	int result = hf_attach_create(&p->attach, &options, err);
	if (!result)
		result = hf_attach_add(p->attach, &region, err);
	if (!result)
		result = hf_attach_start(p->attach, err);
	return result ? result : hf_attach_client_connect(&p->client, p->attach_path, err);
}

static int make_port(struct hf_postcopy *p, enum hf_placement_choice choice, struct hf_err *err)
{
	int result = hf_ramblocks_add(&p->blocks, "ram", p->bytes, HF_POSTCOPY_PAGE_BYTES, err);
	if (result)
		return result;
	struct hf_incoming_memory_config config = {.attach = p->client,
						   .blocks = &p->blocks,
						   .choice = choice,
						   .staging_slots = STAGING_SLOTS,
						   .clock = hf_monotonic_clock(),
						   .ready = memory_ready,
						   .fault = memory_fault,
						   .failed = memory_failed,
						   .work = memory_work};
	return hf_incoming_memory_create(&p->incoming, &config, err);
}

static int make_vcpus(struct hf_postcopy *p, uint32_t vcpus, struct hf_err *err)
{
	int result = hf_toucher_create(&p->toucher, p->ram, p->bytes, vcpus, err);
	for (uint32_t i = 0; i < vcpus && !result; i++)
		p->thread_ids[i] = hf_toucher_thread_id(p->toucher, i);
	return result;
}

static void to_the_source(void *self)
{
	hf_stay_on_half(&((struct hf_postcopy *)self)->cpus, 1);
}

static void to_the_destination(void *self)
{
	hf_stay_on_half(&((struct hf_postcopy *)self)->cpus, 0);
}

static int make_moving(struct hf_postcopy *p, const struct hf_postcopy_config *config, struct hf_err *err)
{
	p->memory = (struct hf_moving_memory){.port = hf_incoming_memory_port(p->incoming),
					      .vcpu_thread_ids = p->thread_ids,
					      .vcpus = config->vcpus,
					      .start = start_memory,
					      .stop = stop_memory,
					      .self = p};
	struct hf_moving_config moving = {.uri = config->uri,
					  .page_bytes = HF_POSTCOPY_PAGE_BYTES,
					  .pages = config->pages,
					  .channels = config->channels,
					  .chunk_bytes = config->chunk_bytes,
					  .background_share_percent = config->background_share_percent,
					  .opaque = p,
					  .memory = &p->memory,
					  .before_source = to_the_source,
					  .behind_source = to_the_destination};
	return hf_moving_start(&p->moving, &moving, err);
}

int hf_postcopy_start(struct hf_postcopy **out, const struct hf_postcopy_config *config, struct hf_err *err)
{
	struct hf_postcopy *p = calloc(1, sizeof(*p));
	if (!p)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	hf_ramblocks_init(&p->blocks);
	p->cpus = config->cpus;
	to_the_destination(p);
	int result = make_ram(p, config, err);
	if (!result)
		result = lend(p, err);
	if (!result)
		result = make_vcpus(p, config->vcpus, err);
	if (!result)
		result = make_port(p, config->choice, err);
	if (!result)
		result = make_moving(p, config, err);
	if (result) {
		hf_postcopy_stop(p);
		return result;
	}
	*out = p;
	return 0;
}

void hf_postcopy_stop(struct hf_postcopy *p)
{
	if (!p)
		return;
	hf_moving_stop(p->moving);
	hf_incoming_memory_destroy(p->incoming);
	hf_attach_client_destroy(p->client);
	hf_attach_destroy(p->attach);
	hf_toucher_destroy(p->toucher);
	hf_ramblocks_destroy(&p->blocks);
	if (p->ram)
		munmap(p->ram, p->bytes);
	if (p->fd)
		close(p->fd - 1);
	if (p->added_pages)
		hf_hugepages_give_back(HF_POSTCOPY_PAGE_BYTES, p->added_pages, NULL);
	sched_setaffinity(0, sizeof(p->cpus), &p->cpus);
	free(p);
}

struct hf_moving *hf_postcopy_moving(struct hf_postcopy *p)
{
	return p->moving;
}

struct hf_toucher *hf_postcopy_toucher(struct hf_postcopy *p)
{
	return p->toucher;
}
