/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host_port.h - the HOST:PORT behind the scheme of a URI.
 *
 * Purpose: checks the form of what an operator or a QMP client wrote, before anything touches the network. An
 * IPv6 address stands in brackets; an empty host means every address and makes sense for listening only.
 * Ownership: nothing is kept.
 * Threads: pure.
 * Units: none.
 * Errors: -EINVAL with a line that shows the URI.
 */
#ifndef HF_CORE_HOST_PORT_H
#define HF_CORE_HOST_PORT_H

#include <stdbool.h>

#include "core/err.h"

struct hf_host_port {
	char host[256]; /* "" = any address */
	char port[6];
};

/* Text that is not printable is never echoed into an error. */
int hf_uri_malformed(const char *uri, const char *why, struct hf_err *err);
bool hf_uri_is_printable(const char *uri);
/* uri: the whole of it; prefix: its scheme with the colon, which it begins with. */
int hf_host_port_parse(const char *uri, const char *prefix, struct hf_host_port *parsed, struct hf_err *err);

#endif
