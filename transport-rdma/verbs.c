/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is asked of librdmacm and libibverbs more than once, with their conventions (errno, negative or
 * positive returns, events that must be acknowledged) turned into this project's.
 */
#include "transport-rdma/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

uint64_t rdma_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint64_t rdma_now_ms(void)
{
	return rdma_now_ns() / 1000000;
}

/* ---- addresses --------------------------------------------------------------------------------- */

void rdma_address_name(const struct sockaddr *address, char name[static RDMA_NAME_BYTES])
{
	char host[128], port[6];
	bool v6 = address->sa_family == AF_INET6;
	socklen_t bytes = v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
	if (getnameinfo(address, bytes, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV))
		snprintf(name, RDMA_NAME_BYTES, RDMA_PREFIX "(unknown)");
	else
		snprintf(name, RDMA_NAME_BYTES, v6 ? RDMA_PREFIX "[%s]:%s" : RDMA_PREFIX "%s:%s", host, port);
}

int rdma_resolve(const char *uri, const struct hf_host_port *parsed, bool to_listen, struct addrinfo **found,
		 struct hf_err *err)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
				       .ai_flags = AI_NUMERICSERV | (to_listen ? AI_PASSIVE : 0)};
	int failed = getaddrinfo(parsed->host[0] ? parsed->host : NULL, parsed->port, &hints, found);
	if (failed)
		return hf_err_set(err, to_listen ? HF_ERR_LOCAL : HF_ERR_LINK, EHOSTUNREACH,
				  "%s: cannot resolve the host: %s", uri, gai_strerror(failed));
	return 0;
}

/* ---- devices ---------------------------------------------------------------------------------- */

static int no_device(const char *uri, struct hf_err *err)
{
	return hf_err_set(
	    err, HF_ERR_LOCAL, ENODEV,
	    "%s: this host has no RDMA device (see `ibv_devices`, `rdma link`); check the "
	    "adapter and its driver, for soft-RoCE `rdma link add rxe0 type rxe netdev NAME`, or "
	    "use tcp:",
	    uri);
}

int rdma_check_device(const char *uri, struct hf_err *err)
{
	int count = 0;
	struct ibv_device **devices = ibv_get_device_list(&count);
	if (devices)
		ibv_free_device_list(devices);
	return count > 0 ? 0 : no_device(uri, err);
}

static int nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);
	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ? -errno : 0;
}

int rdma_open_events(struct rdma_event_channel **events, const char *uri, struct hf_err *err)
{
	int result = rdma_check_device(uri, err);
	if (result)
		return result;
	struct rdma_event_channel *opened = rdma_create_event_channel();
	if (!opened)
		return hf_err_set(err, HF_ERR_LOCAL, errno,
				  "%s: the RDMA connection manager cannot be used: %s; load the module "
				  "rdma_ucm and check the rights of /dev/infiniband/rdma_cm",
				  uri, strerror(errno));
	result = nonblocking(opened->fd);
	if (result) {
		rdma_destroy_event_channel(opened);
		return hf_err_set(err, HF_ERR_LOCAL, -result, "%s: %s", uri, strerror(-result));
	}
	*events = opened;
	return 0;
}

static int wait_readable(int fd, uint64_t deadline_ms)
{
	for (;;) {
		uint64_t now_ms = rdma_now_ms();
		struct pollfd entry = {.fd = fd, .events = POLLIN};
		int ready = poll(&entry, 1, now_ms < deadline_ms ? (int)(deadline_ms - now_ms) : 0);
		if (ready >= 0)
			return ready;
		if (errno != EINTR)
			return -errno;
	}
}

int rdma_next_event(struct rdma_event_channel *events, uint64_t deadline_ms,
		    struct rdma_cm_happened *happened)
{
	struct rdma_cm_event *event;
	while (rdma_get_cm_event(events, &event)) {
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		int ready = wait_readable(events->fd, deadline_ms);
		if (ready <= 0)
			return ready;
	}
	const struct rdma_conn_param *conn = &event->param.conn;
	*happened = (struct rdma_cm_happened){.type = event->event,
					      .id = event->id,
					      .status = event->status,
					      .initiator_depth = conn->initiator_depth,
					      .responder_resources = conn->responder_resources};
	if (conn->private_data) {
		happened->private_bytes = conn->private_data_len;
		memcpy(happened->private_data, conn->private_data, conn->private_data_len);
	}
	rdma_ack_cm_event(event);
	return 1;
}

static uint8_t depth(int most)
{
	return most > (int)RDMA_READ_DEPTH_MAX ? RDMA_READ_DEPTH_MAX : (uint8_t)most;
}

static uint64_t power_of_two_within(uint64_t bytes)
{
	return bytes ? 1ull << (63 - __builtin_clzll(bytes)) : 0;
}

int rdma_find_limits(struct ibv_context *context, uint8_t port, struct rdma_limits *limits,
		     struct hf_err *err)
{
	struct ibv_device_attr device;
	struct ibv_port_attr link;
	const char *name = ibv_get_device_name(context->device);
	int result = ibv_query_device(context, &device);
	if (!result)
		result = ibv_query_port(context, port, &link);
	if (result)
		return hf_err_set(err, HF_ERR_LOCAL, result, "RDMA device %s cannot be asked what it can: %s",
				  name, strerror(result));
	struct rdma_limits found = {
	    .read_max_bytes = (uint32_t)power_of_two_within(link.max_msg_sz),
	    .read_depth_out = depth(device.max_qp_init_rd_atom),
	    .read_depth_in = depth(device.max_qp_rd_atom),
	    .region_max_bytes = power_of_two_within(device.max_mr_size),
	};
	if (found.region_max_bytes > RDMA_REGION_MAX_BYTES)
		found.region_max_bytes = RDMA_REGION_MAX_BYTES;
	if (!found.read_depth_out || !found.read_depth_in || found.read_max_bytes < RDMA_READ_MIN_BYTES ||
	    found.region_max_bytes < HF_WIRE_CHUNK_MAX_BYTES)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EOPNOTSUPP,
		    "RDMA device %s cannot do what is needed: READs of %u bytes, %d at once; use "
		    "tcp: over it",
		    name, link.max_msg_sz, device.max_qp_init_rd_atom);
	*limits = found;
	return 0;
}

/* ---- completions ------------------------------------------------------------------------------ */

int rdma_completions_open(struct rdma_completions *completions, struct ibv_context *context, uint32_t entries,
			  struct hf_err *err)
{
	completions->channel = ibv_create_comp_channel(context);
	if (completions->channel && nonblocking(completions->channel->fd) == 0)
		completions->cq = ibv_create_cq(context, (int)entries, NULL, completions->channel, 0);
	if (completions->cq)
		return 0;
	return hf_err_set(err, HF_ERR_LOCAL, errno, "no completion queue on RDMA device %s: %s",
			  ibv_get_device_name(context->device), strerror(errno));
}

void rdma_completions_close(struct rdma_completions *completions)
{
	if (completions->cq)
		ibv_destroy_cq(completions->cq);
	if (completions->channel)
		ibv_destroy_comp_channel(completions->channel);
	*completions = (struct rdma_completions){0};
}

void rdma_completions_ack(struct rdma_completions *completions)
{
	struct ibv_cq *cq;
	void *context;
	while (ibv_get_cq_event(completions->channel, &cq, &context) == 0)
		ibv_ack_cq_events(cq, 1);
}

static int silent(const char *name, const char *channel, struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_LINK, ETIMEDOUT,
			  "%s, %s: no sign of life from the peer's adapter; check the host and the network",
			  name, channel);
}

void rdma_explain_completion(enum ibv_wc_status status, const char *name, const char *channel,
			     struct hf_err *err)
{
	switch (status) {
	case IBV_WC_RETRY_EXC_ERR:
	case IBV_WC_RNR_RETRY_EXC_ERR:
	case IBV_WC_RESP_TIMEOUT_ERR:
		silent(name, channel, err);
		break;
	case IBV_WC_WR_FLUSH_ERR:
	case IBV_WC_REM_ABORT_ERR:
		hf_err_set(err, HF_ERR_LINK, ECONNRESET,
			   "%s, %s: the peer closed the connection; its own log says why", name, channel);
		break;
	case IBV_WC_REM_ACCESS_ERR:
	case IBV_WC_REM_INV_REQ_ERR:
	case IBV_WC_REM_INV_RD_REQ_ERR:
	case IBV_WC_REM_OP_ERR:
		hf_err_set(err, HF_ERR_PEER, EPROTO,
			   "%s, %s: the peer's adapter refuses what it was asked for (%s): the memory is not "
			   "lent, or no more",
			   name, channel, ibv_wc_status_str(status));
		break;
	default:
		hf_err_set(err, HF_ERR_LOCAL, EIO,
			   "%s, %s: this host's RDMA adapter failed (%s); see the kernel's log", name,
			   channel, ibv_wc_status_str(status));
	}
}

/* ---- registration ----------------------------------------------------------------------------- */

static int explain_register(uint64_t length_bytes, int error_number, struct hf_err *err)
{
	struct rlimit lock = {0};
	getrlimit(RLIMIT_MEMLOCK, &lock);
	if (error_number == ENOMEM && lock.rlim_cur != RLIM_INFINITY)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM,
				  "%" PRIu64
				  " MiB cannot be registered with the RDMA adapter: this program may "
				  "lock %" PRIu64 " KiB altogether; raise the limit (LimitMEMLOCK=infinity, "
				  "`ulimit -l unlimited`), or look for free huge pages",
				  length_bytes >> 20, (uint64_t)lock.rlim_cur >> 10);
	if (error_number == ENOMEM || error_number == EFAULT)
		return hf_err_set(
		    err, HF_ERR_LOCAL, error_number,
		    "%" PRIu64 " MiB cannot be registered with the RDMA adapter (%s): every "
		    "page must be there or to be had; look for free huge pages and for limits of "
		    "the cgroup",
		    length_bytes >> 20, strerror(error_number));
	return hf_err_set(err, HF_ERR_LOCAL, error_number,
			  "%" PRIu64 " MiB cannot be registered with the RDMA adapter: %s",
			  length_bytes >> 20, strerror(error_number));
}

static int register_piece(struct ibv_pd *pd, uint8_t *address, uint64_t length_bytes, int access,
			  struct rdma_regions *regions, struct hf_err *err)
{
	void *grown = reallocarray(regions->region, regions->count + 1, sizeof(*regions->region));
	if (!grown)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	regions->region = grown;
	struct ibv_mr *mr = ibv_reg_mr(pd, address, length_bytes, access);
	if (!mr)
		return explain_register(length_bytes, errno, err);
	regions->region[regions->count++] = (struct rdma_region){(uintptr_t)address, length_bytes, mr};
	return 0;
}

int rdma_register(struct ibv_pd *pd, const struct rdma_limits *limits, void *address, uint64_t length_bytes,
		  int access, const struct hf_link_life *life, struct rdma_regions *regions,
		  struct hf_err *err)
{
	uint8_t *at = address;
	while (length_bytes) {
		uint64_t piece_bytes = length_bytes;
		if (piece_bytes > limits->region_max_bytes)
			piece_bytes = limits->region_max_bytes;
		if (hf_link_life_is_down(life))
			return hf_err_set(err, HF_ERR_LINK, ECANCELED, "the link went down meanwhile");
		int result = register_piece(pd, at, piece_bytes, access, regions, err);
		if (result)
			return result;
		at += piece_bytes;
		length_bytes -= piece_bytes;
	}
	return 0;
}

void rdma_deregister_all(struct rdma_regions *regions)
{
	for (uint32_t i = 0; i < regions->count; i++)
		ibv_dereg_mr(regions->region[i].mr);
	free(regions->region);
	*regions = (struct rdma_regions){0};
}

const struct rdma_region *rdma_find_region(const struct rdma_regions *regions, const void *address,
					   uint64_t length_bytes)
{
	uintptr_t at = (uintptr_t)address;
	for (uint32_t i = 0; i < regions->count; i++) {
		const struct rdma_region *region = &regions->region[i];
		if (at >= region->address && at - region->address < region->length_bytes &&
		    length_bytes <= region->length_bytes - (at - region->address))
			return region;
	}
	return NULL;
}
