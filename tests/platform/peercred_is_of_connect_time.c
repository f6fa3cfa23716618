/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: SO_PEERCRED names, on both ends of a unix socket, the process and user that called connect() or
 * listen(), as they were then: it stays when they change user, hand the socket on or exit.
 *
 * Kernel: 2.6.
 *
 * Relied on by: hugemem/attach_wire.c (who may be at the other end), kvm/qmp_client.c (which process is the
 * VMM).
 */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/platform/platform.h"

#define NOBODY 65534

static struct ucred peer_of(int socket_fd)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);

	must(getsockopt(socket_fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0);
	return peer;
}

static void expect_peer(int socket_fd, pid_t pid, uid_t uid, const char *which)
{
	struct ucred peer = peer_of(socket_fd);

	expect(peer.pid == pid && peer.uid == uid, "%s is process %d of user %u, it was %d of %u", which,
	       peer.pid, peer.uid, pid, uid);
}

/* Connects as the user it is now, then becomes nobody. */
static void client_process(const struct sockaddr_un *address, pid_t server, int from_parent, int to_parent)
{
	int client = socket(AF_UNIX, SOCK_STREAM, 0);

	must(client >= 0 && connect(client, (const struct sockaddr *)address, sizeof(*address)) == 0);
	expect_peer(client, server, 0, "the listener, to who connects,");
	must(setuid(NOBODY) == 0);
	say(to_parent, 1);
	hear(from_parent);
	_exit(0);
}

static void show(uint64_t page_bytes)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int listener = socket(AF_UNIX, SOCK_STREAM, 0), to_client[2], from_client[2];

	(void)page_bytes;
	/* An abstract name: nothing is left behind. */
	snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "hf-platform-%d", getpid());
	must(pipe(to_client) == 0 && pipe(from_client) == 0);
	must(listener >= 0 && bind(listener, (struct sockaddr *)&address, sizeof(address)) == 0);
	must(listen(listener, 1) == 0);
	pid_t server = getpid(), client = platform_fork();
	if (client == 0)
		client_process(&address, server, to_client[0], from_client[1]);
	int accepted = accept(listener, NULL, NULL);
	must(accepted >= 0);
	hear(from_client[0]);
	expect_peer(accepted, client, 0, "a client that has become nobody since");
	say(to_client[1], 1);
	must(platform_wait(client) == 0);
	expect_peer(accepted, client, 0, "a client that has exited");

	/* The opposite: who connects as nobody is nobody. */
	must(pipe(to_client) == 0 && pipe(from_client) == 0);
	client = platform_fork();
	if (client == 0) {
		must(setuid(NOBODY) == 0);
		int other = socket(AF_UNIX, SOCK_STREAM, 0);
		_exit(connect(other, (struct sockaddr *)&address, sizeof(address)) ? 1 : 0);
	}
	accepted = accept(listener, NULL, NULL);
	must(accepted >= 0);
	expect_peer(accepted, client, NOBODY, "a client that connects as nobody");
}

int main(void)
{
	return platform_run(&(struct platform_fact){
	    .claim = "SO_PEERCRED names who connected or listened, as it was then", .show = show});
}
