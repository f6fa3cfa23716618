/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/transport-rdma/pair.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "transport-rdma/internal.h"

static int begin(void **state)
{
	(void)state;
	fake_begin();
	return 0;
}

static void both_sides_agree_on_what_the_smaller_one_wants(void **state)
{
	(void)state;
	struct linked linked;
	linked_begin(&linked, 2, 3);
	for (int side = 0; side < 2; side++) {
		const struct hf_link_info *info = hf_rdma_info(side ? linked.source : linked.destination);
		assert_int_equal(info->channels[HF_FETCH_URGENT], 2);
		assert_int_equal(info->channels[HF_FETCH_BACKGROUND], 3);
		assert_true(info->one_sided);
		assert_string_equal(info->name, "rdma");
		assert_false(info->features & (HF_WIRE_FEATURE_RELEASE | HF_WIRE_FEATURE_PRECOPY));
		assert_true(info->features & HF_WIRE_FEATURE_RECOVER);
	}
	assert_memory_equal(hf_rdma_session(linked.destination), linking_options(1, 1).session, 16);
	linked_end(&linked);
}

static void rounds_are_offered_by_who_means_to_have_some(void **state)
{
	(void)state;
	struct hf_rdma_options options = linking_options(1, 1);
	struct hf_rdma_listener *listener = NULL;
	struct hf_rdma *rdma = NULL;
	struct hf_err err = HF_ERR_INIT;
	struct meeting meeting;
	options.precopy = true;
	assert_int_equal(hf_rdma_listen(&listener, "rdma:127.0.0.1:0", &options, &err), 0);
	meeting_start(&meeting, listener);
	assert_int_equal(hf_rdma_connect(&rdma, hf_rdma_listener_uri(listener), &options, &err), 0);
	assert_int_equal(meeting_join(&meeting), 0);
	assert_true(hf_rdma_info(rdma)->features & HF_WIRE_FEATURE_PRECOPY);
	assert_true(hf_rdma_info(meeting.rdma)->features & HF_WIRE_FEATURE_PRECOPY);
	assert_false(hf_rdma_info(rdma)->features & HF_WIRE_FEATURE_RELEASE);
	hf_rdma_close(rdma);
	hf_rdma_close(meeting.rdma);
	hf_rdma_listener_close(listener);
	fake_end();
}

static void without_a_device_it_says_what_to_check(void **state)
{
	(void)state;
	struct hf_rdma_options options = linking_options(1, 1);
	struct hf_rdma_listener *listener = NULL;
	struct hf_rdma *rdma = NULL;
	struct hf_err err = HF_ERR_INIT;
	fake_set_devices(0);
	assert_int_equal(hf_rdma_listen(&listener, "rdma:127.0.0.1:0", &options, &err), -ENODEV);
	assert_non_null(strstr(err.text, "no RDMA device"));
	assert_non_null(strstr(err.text, "ibv_devices"));
	assert_int_equal(hf_rdma_connect(&rdma, "rdma:127.0.0.1:4444", &options, &err), -ENODEV);
	fake_end();
}

static void nobody_listening_may_pass(void **state)
{
	(void)state;
	struct hf_rdma_options options = linking_options(1, 1);
	struct hf_rdma *rdma = NULL;
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(hf_rdma_connect(&rdma, "rdma:127.0.0.1:9", &options, &err), -ECONNREFUSED);
	assert_int_equal(err.class, HF_ERR_LINK);
	assert_non_null(strstr(err.text, "nobody listens there"));
	fake_end();
}

static void an_adapter_that_reads_nothing_at_once_is_refused(void **state)
{
	(void)state;
	struct hf_rdma_options options = linking_options(1, 1);
	struct hf_rdma_listener *listener = NULL;
	struct hf_rdma *rdma = NULL;
	struct hf_err err = HF_ERR_INIT;
	fake_set_read_depth(0, 16);
	assert_int_equal(hf_rdma_listen(&listener, "rdma:127.0.0.1:0", &options, &err), 0);
	assert_int_equal(hf_rdma_connect(&rdma, hf_rdma_listener_uri(listener), &options, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "fake0"));
	hf_rdma_listener_close(listener);
	fake_end();
}

/* Somebody who connects and greets with these bytes. */
static void connect_with(const char *uri, const uint8_t *bytes, uint8_t length_bytes,
			 struct rdma_cm_happened *happened)
{
	struct rdma_event_channel *events = rdma_create_event_channel();
	struct rdma_cm_id *id = NULL;
	struct sockaddr_in address = {.sin_family = AF_INET};
	struct rdma_conn_param parameters = rdma_conn_param(bytes, length_bytes, 1, 1);
	address.sin_port = htons((uint16_t)atoi(strrchr(uri, ':') + 1));
	assert_int_equal(rdma_create_id(events, &id, NULL, RDMA_PS_TCP), 0);
	assert_int_equal(rdma_resolve_addr(id, NULL, (struct sockaddr *)&address, 1), 0);
	assert_int_equal(rdma_next_event(events, UINT64_MAX, happened), 1);
	assert_int_equal(rdma_connect(id, &parameters), 0);
	assert_int_equal(rdma_next_event(events, rdma_now_ms() + ENGINE_WAIT_MS, happened), 1);
	rdma_destroy_id(id);
	rdma_destroy_event_channel(events);
}

static void check_refused(const uint8_t *bytes, uint8_t length_bytes, enum hf_wire_hello_status status,
			  const char *text)
{
	struct hf_rdma_options options = linking_options(1, 1);
	struct hf_rdma_listener *listener = NULL;
	struct hf_err err = HF_ERR_INIT;
	struct meeting meeting;
	struct rdma_cm_happened happened;
	struct hf_wire_hello_reply reply;
	assert_int_equal(hf_rdma_listen(&listener, "rdma:127.0.0.1:0", &options, &err), 0);
	meeting_start(&meeting, listener);
	connect_with(hf_rdma_listener_uri(listener), bytes, length_bytes, &happened);
	assert_true(meeting_join(&meeting) < 0);
	assert_non_null(strstr(meeting.err.text, text));
	assert_int_equal(happened.type, RDMA_CM_EVENT_REJECTED);
	assert_int_equal(
	    hf_wire_decode_hello_reply(happened.private_data, happened.private_bytes, &reply, &err), 0);
	assert_int_equal(reply.status, status);
	hf_rdma_listener_close(listener);
	fake_end();
}

static void a_stranger_is_refused(void **state)
{
	(void)state;
	static const uint8_t other[RDMA_HELLO_BYTES] = "NVMe over fabrics, perhaps";
	check_refused(other, sizeof(other), HF_WIRE_HELLO_REFUSED, "not Hugeferry's");
	check_refused(other, 1, HF_WIRE_HELLO_REFUSED, "not Hugeferry's");
}

static void a_page_channel_that_nobody_awaits_is_refused(void **state)
{
	(void)state;
	uint8_t bytes[RDMA_HELLO_BYTES];
	struct hf_wire_hello hello = {
	    .version_min = 1, .version_max = 1, .epoch = 1, .channel = HF_WIRE_CHANNEL_URGENT, .index = 63};
	assert_int_equal(rdma_encode_hello(&hello, bytes, sizeof(bytes)), RDMA_HELLO_BYTES);
	check_refused(bytes, sizeof(bytes), HF_WIRE_HELLO_SESSION, "no migration here waits");
}

static void a_session_that_nobody_awaits_is_not_continued(void **state)
{
	(void)state;
	uint8_t bytes[RDMA_HELLO_BYTES];
	struct hf_wire_hello hello = {.version_min = 1,
				      .version_max = 1,
				      .epoch = 2,
				      .features = HF_WIRE_FEATURE_RECOVER,
				      .channels_wanted = {1, 1}};
	assert_int_equal(rdma_encode_hello(&hello, bytes, sizeof(bytes)), RDMA_HELLO_BYTES);
	check_refused(bytes, sizeof(bytes), HF_WIRE_HELLO_SESSION, "nobody here waits for connection 2");
}

static void a_refusal_reaches_the_source_with_its_reason(void **state)
{
	(void)state;
	struct hf_rdma_options options = linking_options(1, 1), later = linking_options(1, 1);
	struct hf_rdma_listener *listener = NULL;
	struct hf_rdma *rdma = NULL;
	struct hf_err err = HF_ERR_INIT;
	struct meeting meeting;
	later.epoch = 2;
	assert_int_equal(hf_rdma_listen(&listener, "rdma:127.0.0.1:0", &options, &err), 0);
	meeting_start(&meeting, listener);
	assert_int_equal(hf_rdma_connect(&rdma, hf_rdma_listener_uri(listener), &later, &err), -ECONNREFUSED);
	assert_int_equal(err.class, HF_ERR_PEER);
	assert_non_null(strstr(err.text, "nobody here waits"));
	assert_true(meeting_join(&meeting) < 0);
	hf_rdma_listener_close(listener);
	fake_end();
}

static void uris_are_checked_before_anything_is_touched(void **state)
{
	(void)state;
	static const char *const good[] = {"rdma:192.0.2.1:4444", "rdma:[2001:db8::1]:1", "rdma::0"};
	static const char *const bad[] = {
	    "rdma:",	  "rdma:host",	  "rdma:host:", "rdma:host:65536", "rdma:2001:db8::1:4444",
	    "tcp:host:1", "rdma:ho\nst:1"};
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_int_equal(hf_rdma_check_uri(good[i], NULL), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(hf_rdma_check_uri(bad[i], NULL), -EINVAL);
}

static void a_hello_comes_out_as_it_went_in(void **state)
{
	(void)state;
	struct hf_wire_hello hello = {.version_min = 1,
				      .version_max = 0xfffe,
				      .features = 0x0123456789abcdefull,
				      .session = {1, 2, 3, [15] = 0xff},
				      .epoch = 0xfedcba9876543210ull,
				      .channels_wanted = {64, 1}},
			     again;
	uint8_t padded[56] = {0};
	assert_int_equal(rdma_encode_hello(&hello, padded, sizeof(padded)), RDMA_HELLO_BYTES);
	assert_int_equal(rdma_decode_hello(padded, sizeof(padded), &again, NULL), 0);
	assert_memory_equal(&hello, &again, sizeof(hello));
	for (size_t bytes = 0; bytes < RDMA_HELLO_BYTES; bytes++)
		assert_int_equal(rdma_decode_hello(padded, bytes, &again, NULL), -EPROTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(both_sides_agree_on_what_the_smaller_one_wants, begin),
	    cmocka_unit_test_setup(rounds_are_offered_by_who_means_to_have_some, begin),
	    cmocka_unit_test_setup(without_a_device_it_says_what_to_check, begin),
	    cmocka_unit_test_setup(nobody_listening_may_pass, begin),
	    cmocka_unit_test_setup(an_adapter_that_reads_nothing_at_once_is_refused, begin),
	    cmocka_unit_test_setup(a_stranger_is_refused, begin),
	    cmocka_unit_test_setup(a_page_channel_that_nobody_awaits_is_refused, begin),
	    cmocka_unit_test_setup(a_session_that_nobody_awaits_is_not_continued, begin),
	    cmocka_unit_test_setup(a_refusal_reaches_the_source_with_its_reason, begin),
	    cmocka_unit_test_setup(uris_are_checked_before_anything_is_touched, begin),
	    cmocka_unit_test_setup(a_hello_comes_out_as_it_went_in, begin),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
