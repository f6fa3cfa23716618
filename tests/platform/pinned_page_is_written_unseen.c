/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: the kernel writes to a page that it has pinned without write tracking seeing it, whatever was
 * harvested and protected since. Pinning a page that is protected shows as a write; so does read(), which
 * pins nothing.
 *
 * Kernel: 6.7 (WP_ASYNC, PAGEMAP_SCAN).
 *
 * Relied on by: kvm/qmp_vm_devices.c (O_DIRECT, whose pages stay pinned while a request is under way, and
 * pre-copy do not go together).
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/platform/platform.h"

#define CONTENT_BYTES 4096

/* As much of io_uring as one request at a time needs. */
struct ring {
	int fd;
	struct io_uring_params params;
	uint8_t *rings;
	struct io_uring_sqe *entry;
};

static unsigned *ring_word(const struct ring *ring, uint32_t offset)
{
	return (unsigned *)(ring->rings + offset);
}

static struct ring ring_new(void)
{
	struct ring ring = {0};
	ring.fd = (int)syscall(SYS_io_uring_setup, 1, &ring.params);
	if (ring.fd < 0 && (errno == ENOSYS || errno == EPERM))
		platform_lacks("io_uring: %s", strerror(errno));
	must(ring.fd >= 0 && ring.params.features & IORING_FEAT_SINGLE_MMAP);
	ring.rings = mmap(NULL, ring.params.cq_off.cqes + 2 * sizeof(struct io_uring_cqe),
			  PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_SQ_RING);
	ring.entry =
	    mmap(NULL, sizeof(*ring.entry), PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_SQES);
	must(ring.rings != MAP_FAILED && (void *)ring.entry != MAP_FAILED);
	return ring;
}

/* Registered buffers are pinned until they are taken back. */
static void ring_pin(const struct ring *ring, void *address)
{
	struct iovec buffer = {address, CONTENT_BYTES};
	must(syscall(SYS_io_uring_register, ring->fd, IORING_REGISTER_BUFFERS, &buffer, 1) == 0);
}

static void ring_read(const struct ring *ring, int file, void *address)
{
	*ring->entry = (struct io_uring_sqe){
	    .opcode = IORING_OP_READ_FIXED, .fd = file, .addr = (uintptr_t)address, .len = CONTENT_BYTES};
	*ring_word(ring, ring->params.sq_off.array) = 0;
	__atomic_add_fetch(ring_word(ring, ring->params.sq_off.tail), 1, __ATOMIC_RELEASE);
	must(syscall(SYS_io_uring_enter, ring->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1);
	const struct io_uring_cqe *end = (const void *)(ring->rings + ring->params.cq_off.cqes);
	must(end->res == CONTENT_BYTES);
}

static int file_of(uint8_t byte)
{
	uint8_t content[CONTENT_BYTES];
	int file = memfd_create("content", MFD_CLOEXEC);
	memset(content, byte, sizeof(content));
	must(file >= 0 && pwrite(file, content, sizeof(content), 0) == CONTENT_BYTES);
	return file;
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);
	struct ring ring = ring_new();
	int file = file_of(7);

	ram_vmm(&ram, 0)[0] = ram_vmm(&ram, 1)[0] = 1;
	int uffd = uffd_of(&ram, TRACKING, UFFDIO_REGISTER_MODE_WP);
	must(uffd_protect(uffd, ram.vmm, ram.length_bytes) == 0);
	ring_pin(&ring, ram_vmm(&ram, 0));
	uint64_t written = written_pages(getpid(), &ram, true);
	expect(written == 1, "after page 0 was pinned pages %" PRIx64 " show as written", written);

	ring_read(&ring, file, ram_vmm(&ram, 0));
	expect(ram.alias[0] == 7, "what was read into a pinned page is not there");
	written = written_pages(getpid(), &ram, true);
	expect(written == 0, "after a read into a pinned page pages %" PRIx64 " show as written", written);

	/* The opposite. */
	must(pread(file, ram_vmm(&ram, 1), CONTENT_BYTES, 0) == CONTENT_BYTES);
	written = written_pages(getpid(), &ram, true);
	expect(written == 2, "after a read() into page 1 pages %" PRIx64 " show as written", written);
	close(ring.fd);
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "what the kernel writes to pinned pages is not tracked",
				    .show = show,
				    .pages = 2,
				    .giant_pages = 2,
				    .features = TRACKING});
}
