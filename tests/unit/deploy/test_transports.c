/* SPDX-License-Identifier: Apache-2.0 */
/* Claims about URIs: which transport serves one, and what the error of a wrong one names. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "deploy/transports.h"

static void the_scheme_names_the_transport(void **state)
{
	(void)state;
	const struct hf_scheme *scheme = NULL;
	assert_int_equal(hf_scheme_of("tcp:127.0.0.1:4444", &scheme, NULL), 0);
	assert_string_equal(scheme->name, "tcp");
	assert_int_equal(hf_scheme_of("unix:/run/x", &scheme, NULL), 0);
	assert_string_equal(scheme->name, "unix");
}

static void an_unknown_scheme_names_those_there_are(void **state)
{
	(void)state;
	static const char *const wrong[] = {"", "tcp", "carrier:pigeon", "/run/x", "TCP:1.2.3.4:5"};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		const struct hf_scheme *scheme = NULL;
		struct hf_err err = HF_ERR_INIT;
		assert_int_equal(hf_scheme_of(wrong[i], &scheme, &err), -EINVAL);
		assert_null(scheme);
		assert_non_null(strstr(err.text, "tcp:, unix:"));
	}
}

static void a_malformed_address_is_refused_before_any_connection(void **state)
{
	(void)state;
	static const char *const wrong[] = {"tcp:", "tcp:host", "tcp:host:", "tcp:host:99999", "unix:"};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		const struct hf_scheme *scheme = NULL;
		struct hf_err err = HF_ERR_INIT;
		assert_true(hf_scheme_of(wrong[i], &scheme, &err) < 0);
		assert_null(scheme);
		assert_non_null(strstr(err.text, wrong[i]));
	}
}

/* Where it is built; the options it has not are refused before any device is looked for. */
static void rdma_is_lent_memory_and_refuses_what_must_see_reads(void **state)
{
	(void)state;
#ifdef HF_RDMA
	const struct hf_scheme *scheme = NULL;
	struct hf_err err = HF_ERR_INIT;
	void *link = NULL;
	const struct hf_link_options release = {.release = true};
	assert_int_equal(hf_scheme_of("rdma:192.0.2.1:4444", &scheme, NULL), 0);
	assert_non_null(scheme->lend);
	assert_int_equal(scheme->connect(&link, "rdma:192.0.2.1:4444", &release, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "--release-ram"));
#endif
}

static void every_close_accepts_null(void **state)
{
	(void)state;
	const struct hf_scheme *scheme = NULL;
	assert_int_equal(hf_scheme_of("unix:/run/x", &scheme, NULL), 0);
	scheme->close(NULL);
	scheme->listener_close(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_scheme_names_the_transport),
	    cmocka_unit_test(an_unknown_scheme_names_those_there_are),
	    cmocka_unit_test(a_malformed_address_is_refused_before_any_connection),
	    cmocka_unit_test(rdma_is_lent_memory_and_refuses_what_must_see_reads),
	    cmocka_unit_test(every_close_accepts_null),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
