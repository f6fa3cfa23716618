/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: a URI comes from an operator or a QMP client and is checked for form before anything
 * touches the network; core/host_port.c knows how tcp: goes on.
 */
#include "transport-tcp/internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char tcp_prefix[] = "tcp:";
static const char unix_prefix[] = "unix:";

static bool starts_with(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

static int parse_tcp(const char *uri, struct tcp_uri *parsed, struct hf_err *err)
{
	struct hf_host_port address;
	int result = hf_host_port_parse(uri, tcp_prefix, &address, err);
	if (result)
		return result;
	memset(parsed, 0, sizeof(*parsed));
	parsed->address = address;
	return 0;
}

static int parse_unix(const char *uri, struct tcp_uri *parsed, struct hf_err *err)
{
	const char *path = uri + strlen(unix_prefix);
	if (!*path)
		return hf_uri_malformed(uri, "no path; write unix:PATH", err);
	if (strlen(path) >= sizeof(parsed->path))
		return hf_uri_malformed(uri, "the path is too long for a unix socket (107 bytes at most)",
					err);

	memset(parsed, 0, sizeof(*parsed));
	parsed->is_unix = true;
	memcpy(parsed->path, path, strlen(path));
	return 0;
}

int tcp_uri_parse(const char *uri, struct tcp_uri *parsed, struct hf_err *err)
{
	if (!hf_uri_is_printable(uri))
		return hf_uri_malformed(uri, "", err);
	if (starts_with(uri, tcp_prefix))
		return parse_tcp(uri, parsed, err);
	if (starts_with(uri, unix_prefix))
		return parse_unix(uri, parsed, err);
	return hf_uri_malformed(uri, "neither tcp:HOST:PORT nor unix:PATH", err);
}

bool hf_tcp_handles(const char *uri)
{
	return starts_with(uri, tcp_prefix) || starts_with(uri, unix_prefix);
}

int hf_tcp_check_uri(const char *uri, struct hf_err *err)
{
	struct tcp_uri parsed;
	return tcp_uri_parse(uri, &parsed, err);
}

void tcp_unix_address(const struct tcp_uri *parsed, struct tcp_address *address)
{
	struct sockaddr_un *unix_address = (struct sockaddr_un *)&address->storage;
	memset(address, 0, sizeof(*address));
	unix_address->sun_family = AF_UNIX;
	memcpy(unix_address->sun_path, parsed->path, sizeof(unix_address->sun_path));
	address->length_bytes = sizeof(*unix_address);
}

void tcp_address_name(const struct tcp_address *address, char name[static TCP_NAME_BYTES])
{
	const struct sockaddr *generic = (const struct sockaddr *)&address->storage;
	if (generic->sa_family == AF_UNIX) {
		const struct sockaddr_un *unix_address = (const struct sockaddr_un *)generic;
		snprintf(name, TCP_NAME_BYTES, "unix:%.*s", (int)sizeof(unix_address->sun_path),
			 unix_address->sun_path);
		return;
	}

	char host[128], port[6];
	if (getnameinfo(generic, address->length_bytes, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV))
		snprintf(name, TCP_NAME_BYTES, "tcp:(unknown)");
	else if (generic->sa_family == AF_INET6)
		snprintf(name, TCP_NAME_BYTES, "tcp:[%s]:%s", host, port);
	else
		snprintf(name, TCP_NAME_BYTES, "tcp:%s:%s", host, port);
}
