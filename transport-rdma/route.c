/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: what an operator may ask of the way to the destination, behind a '?' in the URI that
 * is connected to. The connection manager carries it to the other side, so only the side that connects asks.
 *
 *   gid-index  the address behind that GID is what the connection comes from
 *   tos        told to the connection manager before it looks for a route (RDMA_OPTION_ID_TOS)
 *   mtu, sl    the route that was found is changed, and taken by another id instead of one that it would look
 *              for itself (RDMA_OPTION_IB_PATH): an id that has a route cannot be given another one
 *
 * Not everything is an adapter's or the manager's to grant (of two GIDs with the same address it takes the
 * RoCE version that it is configured to), so what the queue pair has got is looked at in the end.
 */
#include "transport-rdma/internal.h"

#include <endian.h>
#include <errno.h>
#include <infiniband/sa.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOT_ASKED    (-1)
#define EXACTLY	     (2u << 6) /* selector of a path record's field */
#define ROCE_SL_LAST 7	       /* it becomes the priority of an Ethernet frame */

/* ---- the URI ---------------------------------------------------------------------------------- */

static const struct wish {
	const char *name;
	size_t offset; /* in struct rdma_uri */
	int last;
} wishes[] = {
    {"gid-index", offsetof(struct rdma_uri, gid_index), 65535},
    {"mtu", offsetof(struct rdma_uri, mtu_bytes), 4096},
    {"sl", offsetof(struct rdma_uri, service_level), 15},
    {"tos", offsetof(struct rdma_uri, type_of_service), 255},
};
#define WISHES (sizeof(wishes) / sizeof(wishes[0]))

static int *value_of(struct rdma_uri *parsed, const struct wish *wish)
{
	return (int *)((char *)parsed + wish->offset);
}

/* -1: no number from 0 to last. */
static int number_from(const char *text, size_t bytes, int last)
{
	char digits[6] = "";
	if (!bytes || bytes >= sizeof(digits) || strspn(text, "0123456789") < bytes)
		return -1;
	memcpy(digits, text, bytes);
	int number = atoi(digits);
	return number <= last ? number : -1;
}

static int take_wish(const char *uri, const char *text, size_t bytes, struct rdma_uri *parsed,
		     struct hf_err *err)
{
	for (size_t i = 0; i < WISHES; i++) {
		const struct wish *wish = &wishes[i];
		size_t name_bytes = strlen(wish->name);
		if (bytes <= name_bytes || strncmp(text, wish->name, name_bytes) || text[name_bytes] != '=')
			continue;
		int *value = value_of(parsed, wish), last = wish->last;
		if (*value != NOT_ASKED)
			return hf_uri_malformed(uri, "an option stands there twice", err);
		*value = number_from(text + name_bytes + 1, bytes - name_bytes - 1, last);
		char why[80];
		snprintf(why, sizeof(why), "%s is a number from 0 to %d", wish->name, last);
		return *value < 0 ? hf_uri_malformed(uri, why, err) : 0;
	}
	return hf_uri_malformed(
	    uri, "behind '?' there may be gid-index=N, mtu=BYTES, sl=N and tos=N, with '&' between", err);
}

static int take_wishes(const char *uri, const char *text, struct rdma_uri *parsed, struct hf_err *err)
{
	int result = 0;
	for (const char *next = text; !result && next; text = next + 1) {
		next = strchr(text, '&');
		result = take_wish(uri, text, next ? (size_t)(next - text) : strlen(text), parsed, err);
	}
	bool is_mtu = parsed->mtu_bytes >= 256 && !(parsed->mtu_bytes & (parsed->mtu_bytes - 1));
	if (!result && parsed->mtu_bytes != NOT_ASKED && !is_mtu)
		result = hf_uri_malformed(uri, "mtu is 256, 512, 1024, 2048 or 4096", err);
	return result;
}

int rdma_uri_parse(const char *uri, struct rdma_uri *parsed, struct hf_err *err)
{
	char address[RDMA_NAME_BYTES];
	*parsed = (struct rdma_uri){.gid_index = NOT_ASKED,
				    .mtu_bytes = NOT_ASKED,
				    .service_level = NOT_ASKED,
				    .type_of_service = NOT_ASKED};
	if (!hf_uri_is_printable(uri) || strncmp(uri, RDMA_PREFIX, strlen(RDMA_PREFIX)) != 0)
		return hf_uri_malformed(uri, "not " RDMA_PREFIX "HOST:PORT", err);
	size_t bytes = strcspn(uri, "?");
	if (bytes >= sizeof(address))
		return hf_uri_malformed(uri, "the host name is too long", err);
	memcpy(address, uri, bytes);
	address[bytes] = '\0';
	int result = uri[bytes] ? take_wishes(uri, uri + bytes + 1, parsed, err) : 0;
	return result ? result : hf_host_port_parse(address, RDMA_PREFIX, &parsed->address, err);
}

bool rdma_uri_asks(const struct rdma_uri *parsed)
{
	return rdma_uri_changes_path(parsed) || parsed->gid_index != NOT_ASKED ||
	       parsed->type_of_service != NOT_ASKED;
}

bool rdma_uri_changes_path(const struct rdma_uri *parsed)
{
	return parsed->mtu_bytes != NOT_ASKED || parsed->service_level != NOT_ASKED;
}

/* ---- before there is a route ------------------------------------------------------------------ */

int rdma_set_type_of_service(struct rdma_cm_id *id, const struct rdma_uri *wished)
{
	uint8_t value = (uint8_t)wished->type_of_service;
	if (wished->type_of_service == NOT_ASKED)
		return 0;
	return rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_TOS, &value, sizeof(value)) ? -errno : 0;
}

static uint32_t mtu_bytes_of(enum ibv_mtu mtu)
{
	return 128u << mtu;
}

static enum ibv_mtu mtu_of(int bytes)
{
	return (enum ibv_mtu)(__builtin_ctz((unsigned)bytes) - 7);
}

int rdma_check_wishes(const struct rdma_cm_id *id, const struct rdma_uri *wished, const char *uri,
		      struct hf_err *err)
{
	const char *device = ibv_get_device_name(id->verbs->device);
	struct ibv_port_attr port;
	if (!rdma_uri_asks(wished))
		return 0;
	int result = ibv_query_port(id->verbs, id->port_num, &port);
	if (result)
		return hf_err_set(err, HF_ERR_LOCAL, result,
				  "%s: RDMA device %s cannot be asked what it can: %s", uri, device,
				  strerror(result));
	if (id->verbs->device->transport_type != IBV_TRANSPORT_IB)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EOPNOTSUPP,
		    "%s: RDMA device %s has no GID, MTU and service level of its own (iWARP); leave "
		    "these options out",
		    uri, device);
	if (wished->mtu_bytes != NOT_ASKED && mtu_of(wished->mtu_bytes) > port.active_mtu)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EOPNOTSUPP,
		    "%s: the MTU of RDMA device %s, port %u, is %u bytes; ask for that at most, or raise "
		    "the MTU of its network",
		    uri, device, id->port_num, mtu_bytes_of(port.active_mtu));
	if (wished->service_level > ROCE_SL_LAST && port.link_layer == IBV_LINK_LAYER_ETHERNET)
		return hf_err_set(err, HF_ERR_LOCAL, EOPNOTSUPP, "%s: over RoCE a service level is 0 to %d",
				  uri, ROCE_SL_LAST);
	return 0;
}

/* RoCE: an IP address as a GID. */
static void address_of(const union ibv_gid *gid, struct sockaddr_storage *address)
{
	struct in6_addr six;
	struct sockaddr_in *v4 = (struct sockaddr_in *)address;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
	memset(address, 0, sizeof(*address));
	memcpy(&six, gid->raw, sizeof(six));
	if (IN6_IS_ADDR_V4MAPPED(&six)) {
		v4->sin_family = AF_INET;
		memcpy(&v4->sin_addr, gid->raw + 12, sizeof(v4->sin_addr));
		return;
	}
	v6->sin6_family = AF_INET6;
	v6->sin6_addr = six;
}

int rdma_source_of_gid(const struct rdma_cm_id *id, const struct rdma_uri *wished, const char *uri,
		       struct sockaddr_storage *source, struct hf_err *err)
{
	static const union ibv_gid none;
	union ibv_gid gid;
	const char *device = ibv_get_device_name(id->verbs->device);
	if (wished->gid_index == NOT_ASKED)
		return 0;
	if (ibv_query_gid(id->verbs, id->port_num, wished->gid_index, &gid) ||
	    !memcmp(&gid, &none, sizeof(gid)))
		return hf_err_set(err, HF_ERR_LOCAL, EOPNOTSUPP,
				  "%s: RDMA device %s, port %u, has no GID %d (see `ibv_devinfo -v`)", uri,
				  device, id->port_num, wished->gid_index);
	if (!memcmp(&gid, &id->route.addr.addr.ibaddr.sgid, sizeof(gid)))
		return 0;
	struct sockaddr_storage address;
	address_of(&gid, &address);
	if (address.ss_family != id->route.addr.dst_addr.sa_family)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EOPNOTSUPP,
		    "%s: GID %d of RDMA device %s is no address of the destination's kind; name one "
		    "that is, or leave gid-index out",
		    uri, wished->gid_index, device);
	*source = address;
	return 1;
}

/* ---- the route -------------------------------------------------------------------------------- */

void rdma_change_path(const struct rdma_cm_id *id, const struct rdma_uri *wished,
		      struct ibv_path_data *changed)
{
	const struct ibv_sa_path_rec *found = id->route.path_rec;
	uint8_t mtu = wished->mtu_bytes == NOT_ASKED ? found->mtu : (uint8_t)mtu_of(wished->mtu_bytes);
	uint16_t level = wished->service_level == NOT_ASKED ? found->sl : (uint16_t)wished->service_level;
	*changed = (struct ibv_path_data){
	    .flags = IBV_PATH_FLAG_GMP | IBV_PATH_FLAG_PRIMARY | IBV_PATH_FLAG_BIDIRECTIONAL,
	    .path = {.dgid = found->dgid,
		     .sgid = found->sgid,
		     .dlid = found->dlid,
		     .slid = found->slid,
		     .flowlabel_hoplimit = htobe32(be32toh(found->flow_label) << 8 | found->hop_limit),
		     .tclass = found->traffic_class,
		     .reversible_numpath = IBV_PATH_RECORD_REVERSIBLE | 1,
		     .pkey = found->pkey,
		     .qosclass_sl = htobe16(level),
		     .mtu = EXACTLY | mtu,
		     .rate = EXACTLY | found->rate,
		     .packetlifetime = EXACTLY | found->packet_life_time},
	};
}

/* ---- what came of it -------------------------------------------------------------------------- */

static int not_granted(const char *uri, const char *what, int wished, int got, struct hf_err *err)
{
	if (wished == NOT_ASKED || wished == got)
		return 0;
	return hf_err_set(
	    err, HF_ERR_LOCAL, EOPNOTSUPP,
	    "%s: %s is %d and not %d, which the connection manager or the adapter does not grant; "
	    "ask for that, or leave it out",
	    uri, what, got, wished);
}

int rdma_check_granted(struct rdma_cm_id *id, const struct rdma_uri *wished, const char *uri,
		       struct hf_err *err)
{
	struct ibv_qp_attr got = {0};
	struct ibv_qp_init_attr ignored;
	if (!rdma_uri_asks(wished))
		return 0;
	int result = ibv_query_qp(id->qp, &got, IBV_QP_AV | IBV_QP_PATH_MTU, &ignored);
	if (result)
		return hf_err_set(err, HF_ERR_LOCAL, result,
				  "%s: a queue pair cannot be asked what it has: %s", uri, strerror(result));
	const struct ibv_ah_attr *way = &got.ah_attr;
	result = not_granted(uri, "the GID's index", wished->gid_index, way->grh.sgid_index, err);
	if (!result)
		result = not_granted(uri, "the MTU", wished->mtu_bytes, (int)mtu_bytes_of(got.path_mtu), err);
	if (!result)
		result = not_granted(uri, "the service level", wished->service_level, way->sl, err);
	return result ? result
		      : not_granted(uri, "the traffic class", wished->type_of_service, way->grh.traffic_class,
				    err);
}
