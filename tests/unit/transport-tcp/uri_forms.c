/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/transport-tcp/rig.h"

#include <errno.h>
#include <string.h>

static void well_formed_uris_are_taken(void **state)
{
	static const char *const uris[] = {"tcp:host:4444",	 "tcp:127.0.0.1:0",	 "tcp:[::1]:65535",
					   "tcp::4444",		 "tcp:[fe80::1%lo]:1",	 "unix:/run/x",
					   "unix:relative:path", "tcp:a-b.example:00001"};
	(void)state;
	for (size_t i = 0; i < sizeof(uris) / sizeof(uris[0]); i++) {
		struct hf_err err = HF_ERR_INIT;
		if (hf_tcp_check_uri(uris[i], &err))
			fail_msg("%s: %s", uris[i], err.text);
		assert_true(hf_tcp_handles(uris[i]));
	}
}

static void malformed_uris_are_refused_with_a_line(void **state)
{
	static const char *const uris[] = {"",
					   "tcp:",
					   "tcp",
					   "unix:",
					   "file:/x",
					   "rdma:host:1",
					   "tcp:host",
					   "tcp:host:",
					   "tcp:host:65536",
					   "tcp:host:-1",
					   "tcp:host:+1",
					   "tcp:host: 1",
					   "tcp:host:1x",
					   "tcp:host:999999999999",
					   "tcp:::1:4444",
					   "tcp:fe80::1:4444",
					   "tcp:[::1]",
					   "tcp:[::1:4444",
					   "tcp:[]:4444",
					   "tcp:::1]:4444",
					   "tcp://host:4444",
					   "tcp:ho st:4444",
					   "tcp:ho\nst:4444",
					   "unix:/a\x7f",
					   "TCP:host:1"};
	(void)state;
	for (size_t i = 0; i < sizeof(uris) / sizeof(uris[0]); i++) {
		struct hf_err err = HF_ERR_INIT;
		if (hf_tcp_check_uri(uris[i], &err) != -EINVAL)
			fail_msg("'%s' was taken", uris[i]);
		assert_int_equal(err.class, HF_ERR_LOCAL);
		assert_true(strlen(err.text) > 10);
		for (const char *at = err.text; *at; at++)
			assert_true((unsigned char)*at >= ' ' && *at != 0x7f);
	}
}

static void lengths_are_bounded(void **state)
{
	char uri[512];
	(void)state;
	memset(uri, 'a', sizeof(uri));
	memcpy(uri, "unix:", 5);
	uri[5 + 107] = '\0';
	assert_int_equal(hf_tcp_check_uri(uri, NULL), 0);
	uri[5 + 107] = 'a';
	uri[5 + 108] = '\0';
	assert_int_equal(hf_tcp_check_uri(uri, NULL), -EINVAL);

	memset(uri, 'a', sizeof(uri));
	memcpy(uri, "tcp:", 4);
	strcpy(uri + 4 + 255, ":1");
	assert_int_equal(hf_tcp_check_uri(uri, NULL), 0);
	memset(uri + 4, 'a', 256);
	strcpy(uri + 4 + 256, ":1");
	assert_int_equal(hf_tcp_check_uri(uri, NULL), -EINVAL);
}

static void only_its_own_schemes_are_handled(void **state)
{
	(void)state;
	assert_true(hf_tcp_handles("tcp:whatever"));
	assert_true(hf_tcp_handles("unix:whatever"));
	assert_false(hf_tcp_handles("rdma:host:1"));
	assert_false(hf_tcp_handles("tcpx:host:1"));
	assert_false(hf_tcp_handles(""));
}

static void connecting_needs_host_port_and_epoch(void **state)
{
	struct hf_tcp_options options = source_options(1, 1);
	struct hf_tcp *tcp = NULL;
	(void)state;
	assert_int_equal(hf_tcp_connect(&tcp, "tcp::4444", &options, NULL), -EINVAL);
	assert_int_equal(hf_tcp_connect(&tcp, "tcp:127.0.0.1:0", &options, NULL), -EINVAL);
	options.check = true;
	options.epoch = 2; // what only measures is not continued
	assert_int_equal(hf_tcp_connect(&tcp, "tcp:127.0.0.1:1", &options, NULL), -EINVAL);
	options.check = false;
	options.epoch = 0;
	assert_int_equal(hf_tcp_connect(&tcp, "tcp:127.0.0.1:1", &options, NULL), -EINVAL);
	options = source_options(HF_WIRE_CHANNELS_MAX + 1, 1);
	assert_int_equal(hf_tcp_connect(&tcp, "tcp:127.0.0.1:1", &options, NULL), -EINVAL);
	options = source_options(1, 1);
	options.timeout_ms = UINT32_MAX;
	assert_int_equal(hf_tcp_connect(&tcp, "tcp:127.0.0.1:1", &options, NULL), -EINVAL);
	assert_null(tcp);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(well_formed_uris_are_taken),
	    cmocka_unit_test(malformed_uris_are_refused_with_a_line),
	    cmocka_unit_test(lengths_are_bounded),
	    cmocka_unit_test(only_its_own_schemes_are_handled),
	    cmocka_unit_test(connecting_needs_host_port_and_epoch),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
