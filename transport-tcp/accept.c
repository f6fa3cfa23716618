/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: the destination accepts one whole connection. Everyone who connects waits in a small
 * list until he has said his whole hello; one poll() watches the list, the listener and the channels that
 * already belong. So a stranger who is silent or slow holds nobody up.
 *
 *   hello for control,  a session is on -> busy
 *   hello for control,  no session yet, and he is welcome (he begins a session; or, where one is expected, he
 *                       continues that one)
 *                                       -> accepted: the session is his; its page channels are awaited
 *   hello for a page channel that is awaited (session, epoch, class, index; versions and features as before)
 *                                       -> accepted
 *   anything else                       -> refused, with the reason
 *
 * If the session is lost before it is whole, the search goes on with whoever waits. When nobody is left the
 * first thing that went wrong is the answer: it is what the operator wants to know. A stranger beside a
 * session that became whole is not worth a word.
 */
#include "transport-tcp/listener.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define GUESTS_MAX   32 /* strangers heard at once; more wait in the backlog */
#define CHANNELS_MAX (1 + HF_FETCH_CLASSES * HF_WIRE_CHANNELS_MAX)

struct guest {
	int fd;
	uint64_t deadline_ms;
	size_t hello_bytes;
	uint8_t hello[HF_WIRE_HELLO_BYTES];
	char name[TCP_NAME_BYTES];
};

struct acceptance {
	struct hf_tcp_listener *listener;
	uint64_t deadline_ms; /* for the first hello, then for each further channel */
	struct guest guests[GUESTS_MAX];
	uint32_t guest_count;
	/* The session; NULL until its control channel has come. */
	struct hf_tcp *tcp;
	struct hf_wire_hello hello; /* of its control channel; those of its page channels repeat it */
	uint32_t missing;	    /* page channels */
	/* What went wrong first. */
	struct hf_err trouble;
};

static void note_trouble(struct acceptance *acceptance, const struct hf_err *why)
{
	hf_opening_note_trouble(&acceptance->trouble, acceptance->listener->uri, why);
}

/* ---- answering -------------------------------------------------------------------------------- */

static int answer(int fd, const struct hf_wire_hello_reply *reply, const char *text)
{
	uint8_t bytes[HF_WIRE_HELLO_REPLY_BYTES + HF_WIRE_TEXT_MAX_BYTES];
	ssize_t encoded = hf_wire_encode_hello_reply(reply, text, bytes, sizeof(bytes));
	if (encoded < 0)
		return (int)encoded;
	return tcp_send_whole(fd, bytes, (size_t)encoded, 0); // an empty send buffer takes it at once
}

static void remove_guest(struct acceptance *acceptance, struct guest *guest)
{
	*guest = acceptance->guests[--acceptance->guest_count];
}

/* Tells the guest why and lets him go. */
static void dismiss(struct acceptance *acceptance, struct guest *guest, enum hf_wire_hello_status status,
		    const char *text)
{
	char cut[HF_WIRE_TEXT_MAX_BYTES + 1];
	uint8_t unread[4096];
	snprintf(cut, sizeof(cut), "%s", text);
	struct hf_wire_hello_reply reply = {.status = status};
	answer(guest->fd, &reply, cut);
	shutdown(guest->fd, SHUT_WR);
	// Closing with bytes unread would reset the connection and might take the answer with it.
	while (recv(guest->fd, unread, sizeof(unread), MSG_DONTWAIT) > 0)
		;
	tcp_close_fd(&guest->fd);
	remove_guest(acceptance, guest);
}

static void refuse(struct acceptance *acceptance, struct guest *guest, enum hf_wire_hello_status status,
		   struct hf_err *why)
{
	char name[TCP_NAME_BYTES];
	memcpy(name, guest->name, sizeof(name));
	dismiss(acceptance, guest, status, why->text);
	hf_err_prefix(why, "%s was refused", name);
	note_trouble(acceptance, why);
}

/* ---- the session ------------------------------------------------------------------------------ */

static void lose_session(struct acceptance *acceptance, int error_number, const char *text)
{
	struct hf_tcp *tcp = acceptance->tcp;
	struct hf_err why = HF_ERR_INIT;
	hf_err_set(&why, HF_ERR_LINK, error_number, "%s %s with %u of %u page channels open", tcp->name, text,
		   tcp->channel_count - acceptance->missing, tcp->channel_count);
	note_trouble(acceptance, &why);
	tcp_free(tcp);
	acceptance->tcp = NULL;
}

static void open_session(struct acceptance *acceptance, struct guest *guest,
			 const struct hf_wire_hello *hello)
{
	struct hf_err err = HF_ERR_INIT;
	struct hf_link_info info;
	struct hf_tcp *tcp;
	enum hf_wire_hello_status refusal;
	int result = hf_opening_settle(&acceptance->listener->guard, hello, &info, &refusal, &err);
	if (result) {
		refuse(acceptance, guest, refusal, &err);
		return;
	}
	if (tcp_new(&tcp, TCP_ROLE_DESTINATION, acceptance->listener->parsed.is_unix, &info, &err)) {
		refuse(acceptance, guest, HF_WIRE_HELLO_REFUSED, &err);
		return;
	}
	tcp->control_fd = guest->fd;
	memcpy(tcp->name, guest->name, sizeof(tcp->name));
	memcpy(tcp->session, hello->session, sizeof(tcp->session));
	acceptance->hello = *hello;
	remove_guest(acceptance, guest);
	acceptance->tcp = tcp;
	acceptance->missing = tcp->channel_count;
	acceptance->deadline_ms = tcp_now_ms() + acceptance->listener->options.timeout_ms;

	struct hf_wire_hello_reply reply = {.version = info.version, .features = info.features};
	memcpy(reply.channels, info.channels, sizeof(reply.channels));
	result = answer(tcp->control_fd, &reply, "");
	if (result)
		lose_session(acceptance, -result, "went away");
}

/* The channel this hello is for, if it is awaited. */
static struct page_channel *awaited_channel(const struct acceptance *acceptance,
					    const struct hf_wire_hello *hello)
{
	struct hf_tcp *tcp = acceptance->tcp;
	enum hf_fetch_class class =
	    hello->channel == HF_WIRE_CHANNEL_URGENT ? HF_FETCH_URGENT : HF_FETCH_BACKGROUND;
	if (!tcp || !hf_opening_same_session(&acceptance->hello, hello))
		return NULL;
	for (uint32_t i = 0; i < tcp->channel_count; i++) {
		struct page_channel *channel = &tcp->channels[i];
		if (channel->load.class == class && channel->index == hello->index && channel->fd < 0)
			return channel;
	}
	return NULL;
}

static void join_session(struct acceptance *acceptance, struct guest *guest,
			 const struct hf_wire_hello *hello)
{
	struct hf_err err = HF_ERR_INIT;
	struct page_channel *channel = awaited_channel(acceptance, hello);
	if (!channel) {
		hf_err_set(&err, HF_ERR_PEER, EPROTO, "no migration here waits for that channel");
		refuse(acceptance, guest, HF_WIRE_HELLO_SESSION, &err);
		return;
	}
	channel->fd = guest->fd;
	remove_guest(acceptance, guest);
	tcp_tune_requester(channel->fd);
	acceptance->missing--;
	acceptance->deadline_ms = tcp_now_ms() + acceptance->listener->options.timeout_ms;

	struct hf_tcp *tcp = acceptance->tcp;
	struct hf_wire_hello_reply reply = {.version = tcp->info.version, .features = tcp->info.features};
	int result = answer(channel->fd, &reply, "");
	if (result)
		lose_session(acceptance, -result, "went away");
}

/* ---- guests ----------------------------------------------------------------------------------- */

static void hear_hello(struct acceptance *acceptance, struct guest *guest)
{
	struct hf_err err = HF_ERR_INIT;
	struct hf_wire_hello hello;
	if (hf_wire_decode_hello(guest->hello, sizeof(guest->hello), &hello, &err)) {
		refuse(acceptance, guest, HF_WIRE_HELLO_REFUSED, &err);
	} else if (hello.channel != HF_WIRE_CHANNEL_CONTROL) {
		join_session(acceptance, guest, &hello);
	} else if (acceptance->tcp) {
		hf_err_set(&err, HF_ERR_PEER, EBUSY, "another migration to this host is being set up");
		refuse(acceptance, guest, HF_WIRE_HELLO_BUSY, &err);
	} else {
		open_session(acceptance, guest, &hello);
	}
}

static void lose_guest(struct acceptance *acceptance, struct guest *guest, int error_number)
{
	struct hf_err err = HF_ERR_INIT;
	hf_err_set(&err, HF_ERR_LINK, EPROTO, "%s connected and went away without a greeting (%s)",
		   guest->name, error_number ? strerror(error_number) : "closed");
	note_trouble(acceptance, &err);
	tcp_close_fd(&guest->fd);
	remove_guest(acceptance, guest);
}

static void hear_guest(struct acceptance *acceptance, struct guest *guest)
{
	struct hf_err err = HF_ERR_INIT;
	ssize_t got = recv(guest->fd, guest->hello + guest->hello_bytes,
			   sizeof(guest->hello) - guest->hello_bytes, MSG_DONTWAIT);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		lose_guest(acceptance, guest, got < 0 ? errno : 0);
		return;
	}
	guest->hello_bytes += (size_t)got;
	if (!tcp_greeting_possible(guest->hello, guest->hello_bytes)) {
		hf_err_set(&err, HF_ERR_PEER, EPROTO,
			   "this is a Hugeferry destination; the greeting is not "
			   "Hugeferry's");
		refuse(acceptance, guest, HF_WIRE_HELLO_REFUSED, &err);
	} else if (guest->hello_bytes == sizeof(guest->hello)) {
		hear_hello(acceptance, guest);
	}
}

static void expire_guests(struct acceptance *acceptance, uint64_t now_ms)
{
	for (uint32_t i = acceptance->guest_count; i-- > 0;) {
		struct hf_err err = HF_ERR_INIT;
		if (now_ms < acceptance->guests[i].deadline_ms)
			continue;
		hf_err_set(&err, HF_ERR_PEER, ETIMEDOUT, "no whole greeting within %u ms; is it Hugeferry?",
			   acceptance->listener->options.timeout_ms);
		refuse(acceptance, &acceptance->guests[i], HF_WIRE_HELLO_REFUSED, &err);
	}
}

/* 0, or an error of this host. */
static int admit(struct acceptance *acceptance, struct hf_err *err)
{
	const struct hf_tcp_listener *listener = acceptance->listener;
	struct tcp_address address = {.length_bytes = sizeof(address.storage)};
	int fd =
	    accept4(listener->fd, (struct sockaddr *)&address.storage, &address.length_bytes, SOCK_CLOEXEC);
	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			return hf_err_set(err, HF_ERR_LOCAL, errno,
					  "%s: cannot accept: %s; raise the limit of "
					  "open files",
					  listener->uri, strerror(errno));
		return 0; // the guest has gone again
	}
	struct guest *guest = &acceptance->guests[acceptance->guest_count];
	memset(guest, 0, sizeof(*guest));
	guest->fd = fd;
	guest->deadline_ms = tcp_now_ms() + listener->options.timeout_ms;
	if (listener->parsed.is_unix)
		snprintf(guest->name, sizeof(guest->name), "%s", listener->uri);
	else
		tcp_address_name(&address, guest->name);
	if (tcp_tune(fd, listener->parsed.is_unix))
		close(fd);
	else
		acceptance->guest_count++;
	return 0;
}

/* ---- the loop --------------------------------------------------------------------------------- */

static uint32_t watch_session(const struct hf_tcp *tcp, struct pollfd *entries)
{
	uint32_t count = 0;
	if (!tcp)
		return 0;
	// A source that is ready may already talk; only its going away counts here.
	entries[count++] = (struct pollfd){.fd = tcp->control_fd, .events = POLLRDHUP};
	for (uint32_t i = 0; i < tcp->channel_count; i++)
		if (tcp->channels[i].fd >= 0)
			entries[count++] = (struct pollfd){.fd = tcp->channels[i].fd, .events = POLLRDHUP};
	return count;
}

static uint64_t next_deadline_ms(const struct acceptance *acceptance, bool admitting)
{
	uint64_t next_ms = admitting ? acceptance->deadline_ms : UINT64_MAX;
	for (uint32_t i = 0; i < acceptance->guest_count; i++)
		if (acceptance->guests[i].deadline_ms < next_ms)
			next_ms = acceptance->guests[i].deadline_ms;
	return next_ms;
}

static bool hung_up(const struct pollfd *entries, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (entries[i].revents)
			return true;
	return false;
}

static int step(struct acceptance *acceptance, bool admitting, struct hf_err *err)
{
	struct pollfd entries[1 + GUESTS_MAX + CHANNELS_MAX];
	uint32_t guests = acceptance->guest_count;
	bool room = admitting && guests < GUESTS_MAX;
	entries[0] = (struct pollfd){.fd = room ? acceptance->listener->fd : -1, .events = POLLIN};
	for (uint32_t i = 0; i < guests; i++)
		entries[1 + i] = (struct pollfd){.fd = acceptance->guests[i].fd, .events = POLLIN};
	uint32_t members = watch_session(acceptance->tcp, entries + 1 + guests);

	uint64_t now_ms = tcp_now_ms(), until_ms = next_deadline_ms(acceptance, admitting);
	int ready = poll(entries, 1 + guests + members, until_ms > now_ms ? (int)(until_ms - now_ms) : 0);
	if (ready < 0)
		return errno == EINTR ? 0
				      : hf_err_set(err, HF_ERR_LOCAL, errno, "%s: poll: %s",
						   acceptance->listener->uri, strerror(errno));

	if (hung_up(entries + 1 + guests, members))
		lose_session(acceptance, EPROTO, "went away");
	for (uint32_t i = guests; i-- > 0;) // downwards: removal moves the last one here
		if (entries[1 + i].revents)
			hear_guest(acceptance, &acceptance->guests[i]);
	expire_guests(acceptance, tcp_now_ms());
	return entries[0].revents ? admit(acceptance, err) : 0;
}

static int accept_session(struct acceptance *acceptance, struct hf_err *err)
{
	for (;;) {
		if (acceptance->tcp && !acceptance->missing)
			return 0;
		bool in_time = tcp_now_ms() < acceptance->deadline_ms;
		if (acceptance->tcp && !in_time)
			lose_session(acceptance, ETIMEDOUT, "stopped opening channels");
		bool failed = acceptance->trouble.class != HF_ERR_NONE;
		if (!acceptance->tcp && !acceptance->guest_count && (failed || !in_time))
			return hf_opening_nobody(&acceptance->trouble, acceptance->listener->uri,
						 acceptance->listener->options.timeout_ms, err);
		int result = step(acceptance, in_time, err);
		if (result)
			return result;
	}
}

int hf_tcp_accept(struct hf_tcp_listener *listener, struct hf_tcp **out, struct hf_err *err)
{
	struct acceptance acceptance = {.listener = listener,
					.deadline_ms = tcp_now_ms() + listener->options.timeout_ms};
	int result = accept_session(&acceptance, err);
	while (acceptance.guest_count)
		dismiss(&acceptance, &acceptance.guests[acceptance.guest_count - 1],
			result ? HF_WIRE_HELLO_REFUSED : HF_WIRE_HELLO_BUSY,
			result ? "the destination has a problem; see its log"
			       : "another migration to this host has begun");
	if (result) {
		tcp_free(acceptance.tcp);
		return result;
	}
	*out = acceptance.tcp;
	return 0;
}
