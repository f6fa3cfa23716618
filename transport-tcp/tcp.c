/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: a connection is one control socket and, for each class, a number of page sockets, all
 * of one session and epoch. It is opened by connect.c (the source) or accept.c (the destination) on the
 * caller's thread and comes to life in hf_tcp_start().
 *
 *   thread         one per      reads              writes              calls
 *   hf-tcp-ctl     connection   control frames     control frames      link_up, message, link_down
 *   hf-tcp-u0 ...  page channel D: replies         D: (fetch does)     fetch_done
 *                               S: requests        S: replies          serve
 *
 * Its life is core/link_life.h's. Going down: note the reason, then shutdown(2) every socket. That
 * ends every recv, send and poll of the other threads; nobody is signalled or cancelled. Each page
 * channel's thread reports its unfinished fetches and ends; the control thread joins them all and says
 * link_down, last. So nobody is left who could touch a landing (rule d of core/transport.h), and every event
 * comes from a thread that hf_tcp_close() waits for. Descriptors stay open until then: a number that
 * shutdown(2) is about to use can not have been given to another file.
 */
#include "transport-tcp/internal.h"

#include <errno.h>
#include <linux/sockios.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <time.h>

/* ---- making ----------------------------------------------------------------------------------- */

int tcp_options_check(const struct hf_tcp_options *options, struct hf_tcp_options *checked,
		      struct hf_err *err)
{
	struct hf_tcp_options result = {0};
	if (options)
		result = *options;
	int failed = hf_opening_check_options(result.channels, &result.timeout_ms, err);
	if (failed)
		return failed;
	*checked = result;
	return 0;
}

static void init_channels(struct hf_tcp *tcp)
{
	for (uint32_t i = 0; i < tcp->channel_count; i++) {
		struct page_channel *channel = &tcp->channels[i];
		uint32_t urgent = tcp->info.channels[HF_FETCH_URGENT];
		channel->tcp = tcp;
		channel->fd = -1;
		channel->load.class = i < urgent ? HF_FETCH_URGENT : HF_FETCH_BACKGROUND;
		channel->index = i < urgent ? i : i - urgent;
		hf_lock_init(&channel->lock, "page_channel.lock", HF_RANK_PAGE_CHANNEL);
	}
}

int tcp_new(struct hf_tcp **out, enum tcp_role role, bool is_unix, const struct hf_link_info *info,
	    struct hf_err *err)
{
	struct hf_tcp *tcp = calloc(1, sizeof(*tcp));
	if (!tcp)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory for a connection");
	hf_link_life_init(&tcp->life, "hf_tcp.life");
	tcp->role = role;
	tcp->is_unix = is_unix;
	tcp->info = *info;
	tcp->info.name = is_unix ? "unix" : "tcp";
	tcp->control_fd = -1;
	tcp->outbox.most_bytes = HF_OUTBOX_MOST_BYTES;
	for (int i = 0; i < HF_FETCH_CLASSES; i++)
		tcp->info.capacity_chunks[i] = info->channels[i] * TCP_CHANNEL_FETCHES_MAX;

	uint32_t count = info->channels[HF_FETCH_URGENT] + info->channels[HF_FETCH_BACKGROUND];
	tcp->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	tcp->inbox = malloc(HF_WIRE_FRAME_HEADER_BYTES + (size_t)HF_WIRE_FRAME_MAX_BYTES);
	tcp->channels = calloc(count, sizeof(*tcp->channels));
	tcp->channel_count = tcp->channels ? count : 0;
	init_channels(tcp);
	if (tcp->wake_fd < 0 || !tcp->inbox || !tcp->channels) {
		tcp_free(tcp);
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM,
				  "out of memory or descriptors for a connection of %u page channels", count);
	}
	*out = tcp;
	return 0;
}

void tcp_free(struct hf_tcp *tcp)
{
	if (!tcp)
		return;
	for (uint32_t i = 0; i < tcp->channel_count; i++) {
		tcp_close_fd(&tcp->channels[i].fd);
		hf_lock_destroy(&tcp->channels[i].lock);
	}
	tcp_close_fd(&tcp->control_fd);
	tcp_close_fd(&tcp->wake_fd);
	hf_outbox_empty(&tcp->outbox);
	free(tcp->channels);
	free(tcp->inbox);
	hf_link_life_destroy(&tcp->life);
	free(tcp);
}

/* ---- going down ------------------------------------------------------------------------------- */

static void shutdown_sockets(struct hf_tcp *tcp)
{
	uint64_t one = 1;
	for (uint32_t i = 0; i < tcp->channel_count; i++)
		shutdown(tcp->channels[i].fd, SHUT_RDWR);
	shutdown(tcp->control_fd, SHUT_RDWR);
	if (write(tcp->wake_fd, &one, sizeof(one)) < 0) {
		// EAGAIN: the counter is full of wake-ups nobody has read yet, so the poll ends anyway.
	}
}

static void go_down(struct hf_tcp *tcp, const struct hf_err *why, bool told_to_stop)
{
	if (hf_link_life_end(&tcp->life, why, told_to_stop))
		shutdown_sockets(tcp);
}

void tcp_fail(struct hf_tcp *tcp, const struct hf_err *why)
{
	go_down(tcp, why, false);
}

void tcp_fail_link(struct hf_tcp *tcp, const char *channel_name, int error_number)
{
	struct hf_err why = HF_ERR_INIT;
	if (!error_number)
		hf_err_set(&why, HF_ERR_LINK, ECONNRESET,
			   "%s, %s: the peer closed the connection; its own log says why", tcp->name,
			   channel_name);
	else if (error_number == ETIMEDOUT)
		hf_err_set(&why, HF_ERR_LINK, ETIMEDOUT,
			   "%s, %s: no sign of life from the peer for %u s; check the host and the network",
			   tcp->name, channel_name, TCP_SILENCE_MAX_MS / 1000);
	else if (error_number == EFAULT)
		hf_err_set(
		    &why, HF_ERR_LOCAL, EFAULT,
		    "%s, %s: guest memory of this side is gone: a memory error (see the kernel's log), or "
		    "the VM's RAM file was cut short",
		    tcp->name, channel_name);
	else
		hf_err_set(&why, HF_ERR_LINK, error_number,
			   "%s, %s: %s; check the network and the peer's log", tcp->name, channel_name,
			   strerror(error_number));
	go_down(tcp, &why, false);
}

void hf_tcp_shutdown(struct hf_tcp *tcp, const struct hf_err *why)
{
	struct hf_err orderly = HF_ERR_INIT;
	if (!why)
		hf_err_set(&orderly, HF_ERR_CANCELLED, ECANCELED, "%s: closed by this side", tcp->name);
	go_down(tcp, why ? why : &orderly, true);
}

/* ---- threads ---------------------------------------------------------------------------------- */

int tcp_thread_create(pthread_t *thread, const char *name, void *(*function)(void *), void *argument)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before); // signals belong to the program's own threads
	int result = pthread_create(thread, NULL, function, argument);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!result)
		pthread_setname_np(*thread, name);
	return -result;
}

static int start_channel(struct page_channel *channel)
{
	char name[16];
	snprintf(name, sizeof(name), "hf-tcp-%c%u", channel->load.class == HF_FETCH_URGENT ? 'u' : 'b',
		 channel->index % 1000);
	int result = tcp_thread_create(
	    &channel->thread, name, channel->tcp->role == TCP_ROLE_SOURCE ? tcp_serve_main : tcp_fetch_main,
	    channel);
	channel->thread_runs = !result;
	return result;
}

static void abandon_start(struct hf_tcp *tcp)
{
	hf_link_life_set_gate(&tcp->life, false);
	for (uint32_t i = 0; i < tcp->channel_count; i++) {
		if (tcp->channels[i].thread_runs)
			pthread_join(tcp->channels[i].thread, NULL);
		tcp->channels[i].thread_runs = false;
	}
}

int hf_tcp_start(struct hf_tcp *tcp, const struct hf_transport_events *events, void *engine,
		 struct hf_err *err)
{
	if (tcp->events)
		return hf_err_set(err, HF_ERR_LOCAL, EALREADY, "%s: already started", tcp->name);
	tcp->events = events;
	tcp->engine = engine;

	int result = 0;
	for (uint32_t i = 0; i < tcp->channel_count && !result; i++)
		result = start_channel(&tcp->channels[i]);

	if (!result) {
		hf_link_life_begin(&tcp->life);
		result = tcp_thread_create(&tcp->control_thread, "hf-tcp-ctl", tcp_control_main, tcp);
	}
	tcp->control_runs = !result;
	if (!result)
		return 0;

	struct hf_err why = HF_ERR_INIT;
	hf_err_set(&why, HF_ERR_LOCAL, -result, "%s: cannot make %u threads: %s; raise the limit of tasks",
		   tcp->name, tcp->channel_count + 1, strerror(-result));
	go_down(tcp, &why, true);
	abandon_start(tcp);
	if (err)
		*err = why;
	return result;
}

void hf_tcp_close(struct hf_tcp *tcp)
{
	hf_lock_assert_may_stop(__func__);
	if (!tcp)
		return;
	hf_tcp_shutdown(tcp, NULL);
	if (tcp->control_runs)
		pthread_join(tcp->control_thread, NULL);
	tcp_free(tcp);
}

const struct hf_link_info *hf_tcp_info(const struct hf_tcp *tcp)
{
	return &tcp->info;
}

const uint8_t *hf_tcp_session(const struct hf_tcp *tcp)
{
	return tcp->session;
}

/* ---- the port --------------------------------------------------------------------------------- */

static int port_fetch(void *self, const struct hf_fetch *fetch)
{
	return tcp_fetch_post(self, fetch);
}

static int port_send(void *self, uint64_t epoch, uint32_t type, const void *payload, size_t length_bytes)
{
	return tcp_control_send(self, epoch, type, payload, length_bytes);
}

struct hf_transport hf_tcp_transport(struct hf_tcp *tcp)
{
	static const struct hf_transport_ops ops = {.fetch = port_fetch, .send = port_send};
	return (struct hf_transport){.ops = &ops, .self = tcp};
}

/* ---- flush ------------------------------------------------------------------------------------ */

static int wait_queue_empty(struct hf_tcp *tcp, uint64_t deadline_ms)
{
	int waited = 0;
	struct hf_link_life *life = &tcp->life;
	hf_lock(&life->lock);
	while (tcp->outbox.first && !hf_link_life_is_down(life) && !waited)
		waited = hf_cond_wait_until(&life->changed, &life->lock, deadline_ms * 1000000);
	int result = 0;
	if (tcp->outbox.first)
		result = hf_link_life_is_down(life) ? -ENOTCONN : -ETIMEDOUT;
	hf_unlock(&life->lock);
	return result;
}

/* The kernel tells nobody when the last byte was acknowledged, so it is asked again and again. */
static int wait_acknowledged(struct hf_tcp *tcp, uint64_t deadline_ms)
{
	const struct timespec pause = {.tv_nsec = 500000};
	int unacknowledged_bytes;
	while (!ioctl(tcp->control_fd, SIOCOUTQ, &unacknowledged_bytes) && unacknowledged_bytes) {
		if (hf_link_life_is_down(&tcp->life))
			return -ENOTCONN;
		if (tcp_now_ms() >= deadline_ms)
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
	return 0;
}

int hf_tcp_flush(struct hf_tcp *tcp, uint32_t timeout_ms)
{
	uint64_t deadline_ms = tcp_now_ms() + timeout_ms;
	int result = wait_queue_empty(tcp, deadline_ms);
	// A unix socket hands bytes to the peer's receive queue at once.
	if (result || tcp->is_unix)
		return result;
	return wait_acknowledged(tcp, deadline_ms);
}
