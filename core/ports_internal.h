/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ports_internal.h - how the engines call their ports. Private to core/.
 *
 * Purpose: the one place for each port operation, so that rules (a) and (b) can be asserted there: no lock is
 * held over a call, and the port does not call an engine from inside it.
 * Ownership, units, errors: as in the ports' headers.
 * Threads: any, without a lock.
 */
#ifndef HF_CORE_PORTS_INTERNAL_H
#define HF_CORE_PORTS_INTERNAL_H

#include "core/lock.h"
#include "core/memory.h"
#include "core/record.h"
#include "core/transport.h"
#include "core/vm.h"

#define HF_CALL_OUT(name, type, call)                                                                        \
	hf_callout_begin(name);                                                                              \
	type result = call;                                                                                  \
	hf_callout_end();                                                                                    \
	return result

#define HF_CALL_OUT_VOID(name, call)                                                                         \
	hf_callout_begin(name);                                                                              \
	call;                                                                                                \
	hf_callout_end()

static inline int hf_transport_fetch(const struct hf_transport *port, const struct hf_fetch *fetch)
{
	HF_CALL_OUT("transport.fetch()", int, port->ops->fetch(port->self, fetch));
}

static inline int hf_transport_send(const struct hf_transport *port, uint64_t epoch, uint32_t type,
				    const void *payload, size_t length_bytes)
{
	HF_CALL_OUT("transport.send()", int, port->ops->send(port->self, epoch, type, payload, length_bytes));
}

static inline int hf_recorder_request(const struct hf_recorder *port, enum hf_record record)
{
	HF_CALL_OUT("recorder.request()", int, port->ops->request(port->self, record));
}

/* `changed` may be the caller's copy of *port. */
static inline int hf_memory_choose(const struct hf_memory *port, enum hf_placement placement,
				   struct hf_memory *changed, struct hf_err *err)
{
	HF_CALL_OUT("memory.choose()", int, port->ops->choose(port->self, placement, changed, err));
}

static inline int hf_memory_prepare(const struct hf_memory *port)
{
	HF_CALL_OUT("memory.prepare()", int, port->ops->prepare(port->self));
}

static inline void *hf_memory_landing(const struct hf_memory *port, uint32_t block, uint64_t page,
				      uint32_t slot)
{
	HF_CALL_OUT("memory.landing()", void *, port->ops->landing(port->self, block, page, slot));
}

static inline int hf_memory_place(const struct hf_memory *port, uint32_t block, uint64_t page, uint32_t slot,
				  struct hf_err *err)
{
	hf_lock_assert_may_place("memory.place()");
	HF_CALL_OUT("memory.place()", int, port->ops->place(port->self, block, page, slot, err));
}

static inline int hf_memory_place_zero(const struct hf_memory *port, uint32_t block, uint64_t page,
				       struct hf_err *err)
{
	hf_lock_assert_may_place("memory.place_zero()");
	HF_CALL_OUT("memory.place_zero()", int, port->ops->place_zero(port->self, block, page, err));
}

static inline int hf_memory_place_again(const struct hf_memory *port, uint32_t block, uint64_t page,
					struct hf_err *err)
{
	hf_lock_assert_may_place("memory.place_again()");
	HF_CALL_OUT("memory.place_again()", int, port->ops->place_again(port->self, block, page, err));
}

static inline int hf_memory_may_poison(const struct hf_memory *port, struct hf_err *err)
{
	HF_CALL_OUT("memory.may_poison()", int, port->ops->may_poison(port->self, err));
}

static inline int hf_memory_poison(const struct hf_memory *port, uint32_t block, uint64_t page,
				   struct hf_err *err)
{
	hf_lock_assert_may_place("memory.poison()");
	HF_CALL_OUT("memory.poison()", int, port->ops->poison(port->self, block, page, err));
}

static inline void hf_memory_clear(const struct hf_memory *port, void *landing, size_t length_bytes,
				   bool dirty)
{
	HF_CALL_OUT_VOID("memory.clear()", port->ops->clear(port->self, landing, length_bytes, dirty));
}

static inline void hf_memory_kick(const struct hf_memory *port, enum hf_work_class class)
{
	HF_CALL_OUT_VOID("memory.kick()", port->ops->kick(port->self, class));
}

static inline int hf_memory_release(const struct hf_memory *port, struct hf_err *err)
{
	hf_lock_assert_may_place("memory.release()");
	HF_CALL_OUT("memory.release()", int, port->ops->release(port->self, err));
}

static inline int hf_source_memory_chunk(const struct hf_source_memory *port, uint32_t block,
					 uint64_t offset_bytes, uint32_t length_bytes, const void **bytes,
					 struct hf_err *err)
{
	HF_CALL_OUT("memory.chunk()", int,
		    port->ops->chunk(port->self, block, offset_bytes, length_bytes, bytes, err));
}

static inline int hf_source_memory_presence(const struct hf_source_memory *port, uint32_t block,
					    uint8_t *bitmap, size_t bitmap_bytes, struct hf_err *err)
{
	HF_CALL_OUT("memory.presence()", int,
		    port->ops->presence(port->self, block, bitmap, bitmap_bytes, err));
}

static inline int hf_source_memory_harvest(const struct hf_source_memory *port, uint32_t block,
					   uint8_t *dirtied, uint8_t *holes, size_t bitmap_bytes,
					   struct hf_err *err)
{
	HF_CALL_OUT("memory.harvest()", int,
		    port->ops->harvest(port->self, block, dirtied, holes, bitmap_bytes, err));
}

static inline int hf_source_memory_release(const struct hf_source_memory *port, uint32_t block,
					   uint64_t first_page, uint32_t pages, struct hf_err *err)
{
	HF_CALL_OUT("memory.release()", int, port->ops->release(port->self, block, first_page, pages, err));
}

static inline void hf_source_memory_kick_release(const struct hf_source_memory *port)
{
	HF_CALL_OUT_VOID("memory.kick_release()", port->ops->kick_release(port->self));
}

static inline int hf_vm_request(const struct hf_vm *port, enum hf_vm_op op, const void *data,
				size_t length_bytes)
{
	HF_CALL_OUT("vm.request()", int, port->ops->request(port->self, op, data, length_bytes));
}

static inline void hf_call_notify(void (*notify)(void *opaque), void *opaque)
{
	if (notify) {
		HF_CALL_OUT_VOID("notify()", notify(opaque));
	}
}

#endif
