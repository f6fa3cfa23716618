/* SPDX-License-Identifier: Apache-2.0 */
/* What an operator asks of the way: told to the connection manager, found in the queue pairs, or refused. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/transport-rdma/pair.h"
#include "transport-rdma/internal.h"

static int begin(void **state)
{
	(void)state;
	fake_begin();
	return 0;
}

static void the_form_is_checked_before_anything_is_touched(void **state)
{
	(void)state;
	static const char *const good[] = {"rdma:h:1?mtu=256", "rdma:h:1?sl=0", "rdma:[::1]:1?tos=255",
					   "rdma:h:1?gid-index=65535&mtu=4096&sl=15&tos=0"};
	static const char *const bad[] = {
	    "rdma:h:1?",      "rdma:h:1?mtu",	      "rdma:h:1?mtu=",	      "rdma:h:1?mtu=1500",
	    "rdma:h:1?mtu=0", "rdma:h:1?mtu=128",     "rdma:h:1?mtu=8192",    "rdma:h:1?sl=16",
	    "rdma:h:1?sl=-1", "rdma:h:1?tos=256",     "rdma:h:1?gid-index=x", "rdma:h:1?gid-index=65536",
	    "rdma:h:1?sl=1&", "rdma:h:1?sl=1&sl=1",   "rdma:h:1?speed=1",     "rdma:h:1?sl=1?tos=1",
	    "rdma:h?mtu=256", "rdma:h:1?sl=00000001", "rdma:h:1?sl= 1&tos=1", "rdma:h:1?mtu=1024 "};
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_int_equal(hf_rdma_check_uri(good[i], NULL), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (hf_rdma_check_uri(bad[i], NULL) != -EINVAL)
			fail_msg("'%s' is taken", bad[i]);
}

static void who_listens_asks_for_nothing(void **state)
{
	(void)state;
	struct hf_rdma_options options = linking_options(1, 1);
	struct hf_rdma_listener *listener = NULL;
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(hf_rdma_listen(&listener, "rdma:127.0.0.1:0?sl=1", &options, &err), -EINVAL);
	assert_non_null(strstr(err.text, "who connects says"));
	fake_end();
}

/* ---- a connection that is asked to be so ------------------------------------------------------ */

struct attempt {
	struct hf_rdma_listener *listener;
	struct meeting meeting;
	struct hf_rdma *source;
	struct hf_err err;
	int result;
};

/* meets: it comes to a request. */
static void attempt_begin(struct attempt *attempt, const char *wishes, bool meets)
{
	struct hf_rdma_options options = linking_options(1, 2);
	char uri[RDMA_NAME_BYTES];
	*attempt = (struct attempt){0};
	assert_int_equal(hf_rdma_listen(&attempt->listener, "rdma:127.0.0.1:0", &options, &attempt->err), 0);
	if (meets)
		meeting_start(&attempt->meeting, attempt->listener);
	snprintf(uri, sizeof(uri), "%s?%s", hf_rdma_listener_uri(attempt->listener), wishes);
	attempt->result = hf_rdma_connect(&attempt->source, uri, &options, &attempt->err);
	if (meets)
		meeting_join(&attempt->meeting);
}

static void attempt_end(struct attempt *attempt)
{
	hf_rdma_close(attempt->source);
	hf_rdma_close(attempt->meeting.rdma);
	hf_rdma_listener_close(attempt->listener);
	fake_end();
}

static void assert_refused(const char *wishes, bool meets, const char *text)
{
	struct attempt attempt;
	attempt_begin(&attempt, wishes, meets);
	assert_int_equal(attempt.result, -EOPNOTSUPP);
	assert_int_equal(attempt.err.class, HF_ERR_LOCAL);
	assert_non_null(strstr(attempt.err.text, wishes));
	if (!strstr(attempt.err.text, text))
		fail_msg("%s", attempt.err.text);
	attempt_end(&attempt);
}

static struct ibv_qp_attr way_of(const struct rdma_cm_id *id)
{
	struct ibv_qp_attr attributes;
	struct ibv_qp_init_attr ignored;
	assert_int_equal(ibv_query_qp(id->qp, &attributes, IBV_QP_AV | IBV_QP_PATH_MTU, &ignored), 0);
	return attributes;
}

static void assert_all_go(const char *wishes, int gid_index, enum ibv_mtu mtu, int sl, int tos)
{
	struct attempt attempt;
	attempt_begin(&attempt, wishes, true);
	assert_string_equal(attempt.err.text, "");
	assert_int_equal(attempt.result, 0);
	for (uint32_t i = 0; i <= attempt.source->channel_count; i++) {
		struct ibv_qp_attr way =
		    way_of(i ? attempt.source->channels[i - 1].id : attempt.source->control_id);
		assert_int_equal(way.ah_attr.grh.sgid_index, gid_index);
		assert_int_equal(way.path_mtu, mtu);
		assert_int_equal(way.ah_attr.sl, sl);
		assert_int_equal(way.ah_attr.grh.traffic_class, tos);
		assert_int_equal(way.ah_attr.grh.hop_limit, 64);
		assert_int_equal(way.ah_attr.grh.flow_label, 0x12345);
	}
	attempt_end(&attempt);
}

static void every_queue_pair_has_what_was_asked_for(void **state)
{
	(void)state;
	assert_all_go("tos=104", 1, IBV_MTU_2048, 3, 104);
	assert_all_go("mtu=1024", 1, IBV_MTU_1024, 0, 0);
	assert_all_go("sl=5", 1, IBV_MTU_2048, 5, 0);
	assert_all_go("mtu=256&sl=2&tos=104", 1, IBV_MTU_256, 2, 104);
	fake_set_port(IBV_MTU_4096, IBV_LINK_LAYER_INFINIBAND);
	assert_all_go("sl=15&mtu=4096", 1, IBV_MTU_4096, 15, 0);
}

static void the_gid_says_where_the_connection_comes_from(void **state)
{
	(void)state;
	assert_all_go("gid-index=1", 1, IBV_MTU_2048, 0, 0);
	assert_all_go("gid-index=2", 2, IBV_MTU_2048, 0, 0);
	assert_all_go("gid-index=2&mtu=512", 2, IBV_MTU_512, 0, 0);
}

static void a_gid_that_is_not_there_is_refused(void **state)
{
	(void)state;
	assert_refused("gid-index=4", false, "has no GID 4");
	assert_refused("gid-index=99", false, "has no GID 99");
	assert_refused("gid-index=0", false, "no address of the destination's kind");
}

/* Of two with one address the connection manager takes one. */
static void a_gid_that_the_manager_does_not_take_is_refused(void **state)
{
	(void)state;
	assert_refused("gid-index=3", true, "the GID's index is 1 and not 3");
}

static void what_the_port_cannot_do_is_refused(void **state)
{
	(void)state;
	assert_refused("mtu=4096", false, "is 2048 bytes");
	assert_refused("sl=8", false, "0 to 7");
	fake_set_transport(IBV_TRANSPORT_IWARP);
	assert_refused("sl=1", false, "iWARP");
}

static void what_an_adapter_does_not_grant_is_refused(void **state)
{
	(void)state;
	fake_be_stubborn();
	assert_refused("mtu=1024", true, "the MTU is 2048 and not 1024");
	assert_refused("sl=3", true, "the service level is 0 and not 3");
	assert_refused("tos=32", true, "the traffic class is 0 and not 32");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(the_form_is_checked_before_anything_is_touched, begin),
	    cmocka_unit_test_setup(who_listens_asks_for_nothing, begin),
	    cmocka_unit_test_setup(every_queue_pair_has_what_was_asked_for, begin),
	    cmocka_unit_test_setup(the_gid_says_where_the_connection_comes_from, begin),
	    cmocka_unit_test_setup(a_gid_that_is_not_there_is_refused, begin),
	    cmocka_unit_test_setup(a_gid_that_the_manager_does_not_take_is_refused, begin),
	    cmocka_unit_test_setup(what_the_port_cannot_do_is_refused, begin),
	    cmocka_unit_test_setup(what_an_adapter_does_not_grant_is_refused, begin),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
