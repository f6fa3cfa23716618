/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The kernel raises SIGBUS in the thread that touches, at the instruction that does. While a guarded call is
 * under way in that thread its handler jumps back into the call. Nothing but a plain read or write is
 * interrupted, no lock is held, so jumping out of the handler is safe. SA_NODEFER leaves the signal mask
 * alone, so that neither setting the jump nor taking it costs a system call. Asking whether the handler is
 * still ours does, far less than reading a chunk; anybody in the process may have put another one there.
 *
 * A blocked SIGBUS kills whatever the handler, and threads of a program start with all signals blocked; each
 * thread unblocks it at its first guarded call.
 */
#include "hugemem/guarded.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "core/zero.h"

static _Thread_local sigjmp_buf *volatile way_back;
static _Thread_local bool unblocked;

static void on_sigbus(int number, siginfo_t *info, void *context)
{
	(void)context;
	bool touched = info->si_code > 0 && info->si_code != BUS_MCEERR_AO;
	if (touched && way_back)
		siglongjmp(*way_back, 1);
	/* A page nobody here has touched: whoever touches it will hear of it. */
	if (info->si_code == BUS_MCEERR_AO)
		return;
	/* Not ours: it kills, as it would have; an instruction is tried again and raises the signal again. */
	signal(SIGBUS, SIG_DFL);
	if (!touched)
		raise(number);
}

static void install(void)
{
	struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_NODEFER | SA_SIGINFO}, now;

	if (sigaction(SIGBUS, NULL, &now) || !(now.sa_flags & SA_SIGINFO) || now.sa_sigaction != on_sigbus)
		sigaction(SIGBUS, &action, NULL);
}

static void unblock(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGBUS);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	unblocked = true;
}

static void make_ready(void)
{
	install();
	if (!unblocked)
		unblock();
}

/* The compiler must not move an access out of the guarded stretch. */
static void begin(sigjmp_buf *back)
{
	way_back = back;
	atomic_signal_fence(memory_order_seq_cst);
}

static void end(void)
{
	atomic_signal_fence(memory_order_seq_cst);
	way_back = NULL;
}

int hf_guarded_is_zero(const void *bytes, size_t length_bytes, bool *zero)
{
	sigjmp_buf back;

	make_ready();
	if (sigsetjmp(back, 0)) {
		end();
		unblock(); /* a tool under which the program runs may deliver signals with all others blocked
			    */
		return -EIO;
	}
	begin(&back);
	*zero = hf_is_zero(bytes, length_bytes);
	end();
	return 0;
}

int hf_guarded_clear(void *bytes, size_t length_bytes)
{
	sigjmp_buf back;

	make_ready();
	if (sigsetjmp(back, 0)) {
		end();
		unblock(); /* a tool under which the program runs may deliver signals with all others blocked
			    */
		return -EIO;
	}
	begin(&back);
	memset(bytes, 0, length_bytes);
	end();
	return 0;
}
