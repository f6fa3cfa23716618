/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: a URI comes from an operator or a QMP client and is checked for form before anything
 * touches the network. `tcp:HOST:PORT` splits at the last colon, so a bare IPv6 address would be
 * ambiguous: it must stand in brackets. An empty host means every address and makes sense for listening only.
 * Text that is not printable is never echoed into an error.
 */
#include "transport-tcp/internal.h"

#include <arpa/inet.h>
#include <ctype.h>
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

static bool is_printable(const char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 0x7f)
			return false;
	return true;
}

static int bad_uri(const char *uri, const char *why, struct hf_err *err)
{
	if (!is_printable(uri))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "the URI holds control characters");
	return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "'%.200s': %s", uri, why);
}

static bool port_is_valid(const char *port)
{
	size_t digits = strspn(port, "0123456789");
	return digits >= 1 && digits <= 5 && port[digits] == '\0' && atoi(port) <= 65535;
}

static int parse_tcp(const char *uri, struct tcp_uri *parsed, struct hf_err *err)
{
	const char *host = uri + strlen(tcp_prefix);
	const char *colon = strrchr(host, ':');
	if (!colon)
		return bad_uri(uri, "no port; write tcp:HOST:PORT", err);
	if (!port_is_valid(colon + 1))
		return bad_uri(uri, "the port is not a number from 0 to 65535; write tcp:HOST:PORT", err);

	size_t host_bytes = (size_t)(colon - host);
	if (host[0] == '[') {
		if (host_bytes < 3 || host[host_bytes - 1] != ']')
			return bad_uri(uri, "an IPv6 address is written tcp:[ADDRESS]:PORT", err);
		host++;
		host_bytes -= 2;
	} else if (memchr(host, ':', host_bytes)) {
		return bad_uri(uri, "an IPv6 address needs brackets: tcp:[ADDRESS]:PORT", err);
	}
	if (host_bytes >= sizeof(parsed->host))
		return bad_uri(uri, "the host name is too long", err);
	for (size_t i = 0; i < host_bytes; i++)
		if (!isgraph((unsigned char)host[i]) || strchr("/[]", host[i]))
			return bad_uri(
			    uri, "the host holds a character no host name has; write tcp:HOST:PORT", err);

	memset(parsed, 0, sizeof(*parsed));
	memcpy(parsed->host, host, host_bytes);
	snprintf(parsed->port, sizeof(parsed->port), "%s", colon + 1);
	return 0;
}

static int parse_unix(const char *uri, struct tcp_uri *parsed, struct hf_err *err)
{
	const char *path = uri + strlen(unix_prefix);
	if (!*path)
		return bad_uri(uri, "no path; write unix:PATH", err);
	if (strlen(path) >= sizeof(parsed->path))
		return bad_uri(uri, "the path is too long for a unix socket (107 bytes at most)", err);

	memset(parsed, 0, sizeof(*parsed));
	parsed->is_unix = true;
	memcpy(parsed->path, path, strlen(path));
	return 0;
}

int tcp_uri_parse(const char *uri, struct tcp_uri *parsed, struct hf_err *err)
{
	if (!is_printable(uri))
		return bad_uri(uri, "", err);
	if (starts_with(uri, tcp_prefix))
		return parse_tcp(uri, parsed, err);
	if (starts_with(uri, unix_prefix))
		return parse_unix(uri, parsed, err);
	return bad_uri(uri, "neither tcp:HOST:PORT nor unix:PATH", err);
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
