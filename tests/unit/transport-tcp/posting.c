/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests that are posted while another one is being sent. The linker puts this test in front of send():
 * what a second thread does in that moment is done there.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "tests/unit/transport-tcp/rig.h"
#include "transport-tcp/internal.h" // to look at a channel's count

#define CHUNK_BYTES 4096u

struct wire {
	struct engine *engine;
	struct raw raw;
	struct hf_tcp *tcp;
	struct hf_transport port;
	uint8_t landing[CHUNK_BYTES], bytes[CHUNK_BYTES];
};

/* Of the process, since send() has no context. */
static struct {
	struct wire *wire;    /* NULL: nothing special */
	uint64_t during, id;  /* while `during` is sent, `id` is posted */
	uint64_t no_room_for; /* the kernel takes this one not, once */
	bool guess;	      /* meanwhile the source answers it all the same, behind request 0 */
	bool posted, refused;
} meanwhile;

#define NOBODY UINT64_MAX

static int post_id(struct wire *wire, uint64_t id)
{
	struct hf_fetch fetch = make_fetch(id, 0, 0, CHUNK_BYTES, HF_FETCH_URGENT, wire->landing);
	return wire->port.ops->fetch(wire->port.self, &fetch);
}

static void answer(struct wire *wire, uint64_t id)
{
	struct hf_wire_request request = raw_recv_request(wire->raw.pages[0]);
	assert_int_equal(request.id, id);
	raw_send_page_reply(wire->raw.pages[0], &request, false, wire->bytes);
}

ssize_t __real_send(int fd, const void *bytes, size_t length_bytes, int flags);
ssize_t __wrap_send(int fd, const void *bytes, size_t length_bytes, int flags);

ssize_t __wrap_send(int fd, const void *bytes, size_t length_bytes, int flags)
{
	struct hf_wire_request request;
	struct wire *wire = meanwhile.wire;
	if (wire && length_bytes == HF_WIRE_REQUEST_BYTES &&
	    hf_wire_decode_request(bytes, length_bytes, &request, NULL) == 0) {
		if (request.id == meanwhile.during && !meanwhile.posted) {
			meanwhile.posted = true;
			assert_int_equal(post_id(wire, meanwhile.id), 0);
		}
		if (request.id == meanwhile.no_room_for && !meanwhile.refused) {
			meanwhile.refused = true;
			if (meanwhile.guess) {
				answer(wire, 0);
				raw_send_page_reply(wire->raw.pages[0], &request, false, wire->bytes);
				engine_wait_done(wire->engine, 2);
			}
			errno = EAGAIN;
			return -1;
		}
	}
	return __real_send(fd, bytes, length_bytes, flags);
}

static void begin(struct wire *wire)
{
	*wire = (struct wire){.engine = engine_new()};
	wire->tcp = raw_source_open(&wire->raw, unix_uri(), 1, 1, wire->engine);
	wire->port = hf_tcp_transport(wire->tcp);
}

/* All have ended well: `done` of them, and not one more. */
static void end(struct wire *wire, uint32_t done)
{
	meanwhile.wire = NULL;
	engine_wait_done(wire->engine, done);
	hf_tcp_close(wire->tcp);
	raw_close(&wire->raw);
	assert_int_equal(wire->engine->done_by_status[HF_FETCH_OK], done);
	assert_int_equal(wire->engine->done_total, done);
	engine_free(wire->engine);
}

static void who_sends_takes_along_what_others_post(void **state)
{
	struct wire wire;
	(void)state;
	begin(&wire);
	meanwhile.during = 0;
	meanwhile.id = 1;
	meanwhile.no_room_for = NOBODY;
	meanwhile.posted = false;
	meanwhile.wire = &wire;
	assert_int_equal(post_id(&wire, 0), 0);
	assert_true(meanwhile.posted);
	answer(&wire, 0);
	answer(&wire, 1);
	end(&wire, 2);
}

/* Only the one that is refused comes again; the other one has been taken, and goes behind the next answer. */
static void what_is_left_to_one_that_is_refused_is_sent_all_the_same(void **state)
{
	struct wire wire;
	(void)state;
	begin(&wire);
	assert_int_equal(post_id(&wire, 0), 0);
	meanwhile.during = meanwhile.no_room_for = 1;
	meanwhile.id = 2;
	meanwhile.posted = meanwhile.refused = false;
	meanwhile.wire = &wire;
	assert_int_equal(post_id(&wire, 1), -EAGAIN);
	assert_true(meanwhile.posted && meanwhile.refused);
	assert_int_equal(post_id(&wire, 3), -EAGAIN); // not in front of the one that waits
	answer(&wire, 0);
	answer(&wire, 2);
	engine_wait_done(wire.engine, 2);
	assert_int_equal(post_id(&wire, 1), 0);
	answer(&wire, 1);
	end(&wire, 3);
}

/* The channel's count of what is on its way stays right, whatever it is that the source guesses. */
static void an_answer_to_what_was_not_sent_ends_its_fetch(void **state)
{
	struct wire wire;
	(void)state;
	begin(&wire);
	assert_int_equal(post_id(&wire, 0), 0);
	meanwhile.during = NOBODY;
	meanwhile.no_room_for = 1;
	meanwhile.refused = false;
	meanwhile.guess = true;
	meanwhile.wire = &wire;
	assert_int_equal(post_id(&wire, 1), 0);
	assert_true(meanwhile.refused);
	assert_int_equal(atomic_load(&wire.tcp->channels[0].load.outstanding), 0);
	assert_int_equal(post_id(&wire, 2), 0);
	answer(&wire, 2);
	end(&wire, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(who_sends_takes_along_what_others_post),
	    cmocka_unit_test(what_is_left_to_one_that_is_refused_is_sent_all_the_same),
	    cmocka_unit_test(an_answer_to_what_was_not_sent_ends_its_fetch),
	};
	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
