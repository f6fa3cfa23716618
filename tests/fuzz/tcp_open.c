/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Target: opening a link over sockets. The first byte chooses the side: hf_tcp_accept() among guests of all
 * kinds, or hf_tcp_connect() to a listener that answers anything.
 *
 * A link that opens is whole: every channel has its socket, none twice, of one session, the one that is
 * awaited if one is; whoever was answered got an answer that decodes.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "core/wire.h"
#include "tests/fuzz/peer.h"
#include "transport-tcp/listener.h"

#define GUESTS_MAX 8
#define ANSWER_MAX (HF_WIRE_HELLO_REPLY_BYTES + HF_WIRE_TEXT_MAX_BYTES)

struct guest {
	int fd;
	bool greets; /* has sent a whole hello */
	struct hf_wire_hello hello;
};

static void check_whole(const struct hf_tcp *tcp)
{
	fuzz_check(tcp->control_fd >= 0);
	fuzz_check(tcp->channel_count == tcp->info.channels[0] + tcp->info.channels[1]);
	for (uint32_t i = 0; i < tcp->channel_count; i++) {
		fuzz_check(tcp->channels[i].fd >= 0 && tcp->channels[i].fd != tcp->control_fd);
		for (uint32_t j = 0; j < i; j++)
			fuzz_check(tcp->channels[i].fd != tcp->channels[j].fd);
	}
}

/* ---- accepting --------------------------------------------------------------------------------- */

static struct hf_wire_hello make_hello(struct fuzz_input *input)
{
	uint8_t choice = fuzz_u8(input);
	struct hf_wire_hello hello = {.version_min = 1,
				      .version_max = 1 + (choice >> 7),
				      .epoch = 1 + (choice >> 6 & 1),
				      .channel = choice & 3,
				      .index = choice >> 2 & 3};
	hello.features = hello.epoch > 1 ? HF_WIRE_FEATURE_RECOVER : 0;
	hello.session[0] = choice >> 4 & 3;
	if (hello.channel == HF_WIRE_CHANNEL_CONTROL)
		hello.channels_wanted[0] = hello.channels_wanted[1] = 1 + hello.index;
	if (hello.channel == HF_WIRE_CHANNEL_CONTROL)
		hello.index = 0;
	return hello;
}

static void send_hello(struct fuzz_input *input, struct guest *guest)
{
	uint8_t bytes[HF_WIRE_HELLO_BYTES + 8] = {0};
	struct hf_wire_hello hello = make_hello(input);
	if (hf_wire_encode_hello(&hello, bytes, sizeof(bytes)) < 0)
		return;
	uint8_t change = fuzz_u8(input); // one byte of it may be wrong, or missing
	size_t count = HF_WIRE_HELLO_BYTES + (change == 1) - (change == 2);
	if (change >= 0x80)
		bytes[change - 0x80u < HF_WIRE_HELLO_BYTES ? change - 0x80u : 0] ^= fuzz_u8(input);
	fuzz_peer_write(guest->fd, bytes, count);
	guest->greets =
	    count >= HF_WIRE_HELLO_BYTES && !hf_wire_decode_hello(bytes, count, &guest->hello, NULL);
}

static void send_anything(struct fuzz_input *input, const struct guest *guest)
{
	size_t count;
	const uint8_t *bytes = fuzz_piece(input, &count);
	fuzz_peer_write(guest->fd, bytes, count);
}

static void make_guest(struct fuzz_input *input, struct guest *guest)
{
	uint8_t choice = fuzz_u8(input);
	*guest = (struct guest){.fd = fuzz_peer_knock()};
	if (choice & 1)
		send_anything(input, guest);
	else
		send_hello(input, guest);
	if (choice & 2)
		shutdown(guest->fd, SHUT_WR);
	if (choice & 4)
		shutdown(guest->fd, SHUT_RD);
}

/* Was this guest accepted? What he was told must decode. */
static bool was_accepted(const struct guest *guest)
{
	uint8_t bytes[ANSWER_MAX + 1];
	struct hf_wire_hello_reply reply;
	size_t count = fuzz_peer_read(guest->fd, bytes, sizeof(bytes));
	if (count == 0)
		return false;
	fuzz_check(hf_wire_decode_hello_reply(bytes, count, &reply, NULL) == 0);
	fuzz_check(count == HF_WIRE_HELLO_REPLY_BYTES + reply.text_bytes);
	fuzz_check(reply.status == HF_WIRE_HELLO_ACCEPTED || reply.text_bytes > 0);
	fuzz_check(reply.status != HF_WIRE_HELLO_ACCEPTED || guest->greets);
	return reply.status == HF_WIRE_HELLO_ACCEPTED;
}

static bool same_session(const struct hf_wire_hello *a, const struct hf_wire_hello *b)
{
	return a->epoch == b->epoch && memcmp(a->session, b->session, sizeof(a->session)) == 0;
}

/* There is a session of which the control channel and exactly the link's page channels were accepted. */
static void check_members(const struct hf_tcp *tcp, const struct guest *guests, const bool *accepted,
			  uint32_t count)
{
	bool found = false;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t members = 0;
		if (!accepted[i] || guests[i].hello.channel != HF_WIRE_CHANNEL_CONTROL)
			continue;
		for (uint32_t j = 0; j < count; j++)
			members += accepted[j] && guests[j].hello.channel != HF_WIRE_CHANNEL_CONTROL &&
				   same_session(&guests[i].hello, &guests[j].hello);
		found |= members >= tcp->channel_count && guests[i].hello.epoch == tcp->info.epoch;
	}
	fuzz_check(found);
	fuzz_check(tcp->info.version == 1 && tcp->info.channels[0] <= 2 && tcp->info.channels[1] <= 2);
}

/* Perhaps a session is awaited: one that the guests may know. */
static void make_expectation(struct fuzz_input *input, struct hf_tcp_listener *listener)
{
	uint8_t choice = fuzz_u8(input);
	uint8_t session[HF_TCP_SESSION_BYTES] = {choice >> 1 & 3};
	if (choice & 1)
		hf_tcp_listener_expect(listener, session, choice >> 3 & 1);
}

static void check_expectation(const struct hf_tcp_listener *listener, const struct hf_tcp *tcp)
{
	bool continues = tcp->info.epoch > 1;
	fuzz_check(!continues || (tcp->info.features & HF_WIRE_FEATURE_RECOVER));
	if (!listener->guard.expects) {
		fuzz_check(!continues);
		return;
	}
	fuzz_check(tcp->info.epoch > listener->guard.epoch_min);
	fuzz_check(memcmp(hf_tcp_session(tcp), listener->guard.session, sizeof(listener->guard.session)) ==
		   0);
}

static void accept_guests(struct fuzz_input *input)
{
	struct guest guests[GUESTS_MAX];
	bool accepted[GUESTS_MAX];
	struct hf_tcp *tcp = NULL;
	struct hf_err err = HF_ERR_INIT;
	uint32_t count = 1 + fuzz_below(input, GUESTS_MAX);
	for (uint32_t i = 0; i < count; i++)
		make_guest(input, &guests[i]);
	struct hf_tcp_listener listener = {.fd = fuzz_peers.listener,
					   .uri = "unix:/fuzz",
					   .parsed = {.is_unix = true},
					   .options = {.channels = {2, 2}, .timeout_ms = 1000}};
	make_expectation(input, &listener);

	int result = hf_tcp_accept(&listener, &tcp, &err);
	for (uint32_t i = 0; i < count; i++)
		accepted[i] = was_accepted(&guests[i]);
	if (result) {
		fuzz_check(!tcp && err.class != HF_ERR_NONE && err.text[0]);
		return;
	}
	check_whole(tcp);
	check_expectation(&listener, tcp);
	check_members(tcp, guests, accepted, count);
	tcp_free(tcp);
}

/* ---- connecting -------------------------------------------------------------------------------- */

struct answers {
	struct fuzz_input *input;
	uint32_t connects;
};

/* The listener answers before it has heard the hello; nobody can tell. */
static bool answer_hello(void *opaque, int fd)
{
	struct answers *answers = opaque;
	uint8_t choice = fuzz_u8(answers->input);
	uint8_t bytes[ANSWER_MAX];
	struct hf_wire_hello_reply reply = {.status = choice >> 4 & 7, .version = 1};
	if (answers->connects++ == 0)
		reply.channels[0] = reply.channels[1] = choice >> 2 & 3;
	ssize_t encoded = hf_wire_encode_hello_reply(&reply, reply.status ? "no" : "", bytes, sizeof(bytes));
	if (choice & 1) {
		size_t count;
		const uint8_t *piece = fuzz_piece(answers->input, &count);
		fuzz_peer_write(fd, piece, count);
	} else if (encoded > 0) {
		fuzz_peer_write(fd, bytes, (size_t)encoded);
	}
	if (choice & 2)
		shutdown(fd, SHUT_WR);
	return choice != 0xff;
}

static void connect_to_listener(struct fuzz_input *input)
{
	struct answers answers = {.input = input};
	struct hf_tcp_options options = {.channels = {2, 3}, .timeout_ms = 1000, .epoch = 1};
	struct hf_tcp *tcp = NULL;
	struct hf_err err = HF_ERR_INIT;
	fuzz_peers.opaque = &answers;
	fuzz_peers.on_connect = answer_hello;
	if (hf_tcp_connect(&tcp, "unix:/fuzz", &options, &err)) {
		fuzz_check(!tcp && err.class != HF_ERR_NONE && err.text[0]);
		return;
	}
	check_whole(tcp);
	fuzz_check(tcp->info.version == 1 && tcp->info.features == 0);
	fuzz_check(tcp->info.channels[0] <= 2 && tcp->info.channels[1] <= 3);
	fuzz_check(answers.connects == 1 + tcp->channel_count);
	tcp_free(tcp);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct fuzz_input input = {.at = data, .left = bytes};
	fuzz_peers_begin(NULL);
	uint8_t choice = fuzz_u8(&input);
	fuzz_peers.shortness = choice >> 1;
	if (choice & 1)
		connect_to_listener(&input);
	else
		accept_guests(&input);
	fuzz_peers_end();
	return 0;
}
