/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOST:PORT splits at the last colon, so a bare IPv6 address would be ambiguous: it must stand in brackets.
 */
#include "core/host_port.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool hf_uri_is_printable(const char *uri)
{
	for (; *uri; uri++)
		if ((unsigned char)*uri < ' ' || *uri == 0x7f)
			return false;
	return true;
}

int hf_uri_malformed(const char *uri, const char *why, struct hf_err *err)
{
	if (!hf_uri_is_printable(uri))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "the URI holds control characters");
	return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "'%.200s': %s", uri, why);
}

static bool port_is_valid(const char *port)
{
	size_t digits = strspn(port, "0123456789");
	return digits >= 1 && digits <= 5 && port[digits] == '\0' && atoi(port) <= 65535;
}

static int malformed(const char *uri, const char *prefix, const char *what, const char *form,
		     struct hf_err *err)
{
	char why[160];
	snprintf(why, sizeof(why), "%s%s%s", what, prefix, form);
	return hf_uri_malformed(uri, why, err);
}

int hf_host_port_parse(const char *uri, const char *prefix, struct hf_host_port *parsed, struct hf_err *err)
{
	const char *host = uri + strlen(prefix);
	const char *colon = strrchr(host, ':');
	if (!colon)
		return malformed(uri, prefix, "no port; write ", "HOST:PORT", err);
	if (!port_is_valid(colon + 1))
		return malformed(uri, prefix, "the port is not a number from 0 to 65535; write ", "HOST:PORT",
				 err);

	size_t host_bytes = (size_t)(colon - host);
	if (host[0] == '[') {
		if (host_bytes < 3 || host[host_bytes - 1] != ']')
			return malformed(uri, prefix, "an IPv6 address is written ", "[ADDRESS]:PORT", err);
		host++;
		host_bytes -= 2;
	} else if (memchr(host, ':', host_bytes)) {
		return malformed(uri, prefix, "an IPv6 address needs brackets: ", "[ADDRESS]:PORT", err);
	}
	if (host_bytes >= sizeof(parsed->host))
		return hf_uri_malformed(uri, "the host name is too long", err);
	for (size_t i = 0; i < host_bytes; i++)
		if (host[i] <= ' ' || host[i] > '~' || strchr("/[]", host[i]))
			return malformed(uri, prefix, "the host holds a character no host name has; write ",
					 "HOST:PORT", err);

	memset(parsed, 0, sizeof(*parsed));
	memcpy(parsed->host, host, host_bytes);
	snprintf(parsed->port, sizeof(parsed->port), "%s", colon + 1);
	return 0;
}
