/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: the handshake fails with EINVAL for a feature that is not offered, without saying which; it
 * answers with all that is offered, whatever was asked for; and it is done once.
 *
 * Kernel: 4.3, features 4.11.
 *
 * Relied on by: hugemem/uffd_open.c, which asks a descriptor that it throws away.
 */
#include <errno.h>
#include <sys/ioctl.h>

#include "hugemem/uffd_open.h"
#include "tests/platform/platform.h"

static int handshake(int uffd, uint64_t asked, uint64_t *offered)
{
	struct uffdio_api api = {.api = UFFD_API, .features = asked};
	int result = ioctl(uffd, UFFDIO_API, &api) ? -errno : 0;

	*offered = api.features;
	return result;
}

static void show(uint64_t page_bytes)
{
	struct uffdio_range range = {.start = 0, .len = SIZE_2M};
	uint64_t offered, offered_again;
	int first = -1, second = -1;

	(void)page_bytes;
	must(hf_uffd_raw(&first, NULL) == 0 && hf_uffd_raw(&second, NULL) == 0);
	expect_error("a call before the handshake", ioctl(first, UFFDIO_WAKE, &range) ? -errno : 0, EINVAL);
	expect_error("a handshake for a feature that nobody has",
		     handshake(first, UINT64_C(1) << 60, &offered), EINVAL);
	expect(offered == 0, "a handshake that fails says something of features");
	expect_answer("a handshake for no feature", handshake(first, 0, &offered), 0);
	expect_answer("a handshake for all of them",
		      handshake(second, offered & ~UFFD_FEATURE_EVENT_FORK, &offered_again), 0);
	expect(offered == offered_again && offered, "what is offered depends on what is asked for");
	expect_error("a second handshake", handshake(first, 0, &offered), EINVAL);
	expect_answer("a call after the handshake", ioctl(first, UFFDIO_WAKE, &range) ? -errno : 0, 0);
}

int main(void)
{
	return platform_run(&(struct platform_fact){
	    .claim = "the handshake tells all features, takes only those, and only once", .show = show});
}
