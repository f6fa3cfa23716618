/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Target: the agent's side of the attach hand-off against a VMM that answers anything, with any descriptors.
 *
 * Regions that are taken are whole pages, in files that hold them, without overlaps; a userfaultfd is one;
 * and no descriptor is left behind, whatever came.
 */
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hugemem/attach_client.h"
#include "hugemem/attach_wire.h"
#include "tests/fuzz/peer.h"

#define FILE_BYTES (8u << 20)

/* What a VMM might send: memory files, and what is none. */
enum { HUGE, HUGE_TOO, SMALL, EVENTFD, READ_ONLY, FDS };
static int offered[FDS];

static int memory_file(unsigned flags)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC | flags);
	if (fd < 0) // a kernel without huge pages: the target still refuses
		fd = memfd_create("fuzz", MFD_CLOEXEC);
	fuzz_check(fd >= 0 && ftruncate(fd, FILE_BYTES) == 0);
	return fd;
}

static void make_offers(void)
{
	static bool made;
	char path[32];
	if (made)
		return;
	made = true;
	offered[HUGE] = memory_file(MFD_HUGETLB | MFD_HUGE_2MB);
	offered[HUGE_TOO] = memory_file(MFD_HUGETLB | MFD_HUGE_2MB);
	offered[SMALL] = memory_file(0);
	offered[EVENTFD] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", offered[HUGE]);
	offered[READ_ONLY] = open(path, O_RDONLY | O_CLOEXEC);
	fuzz_check(offered[EVENTFD] >= 0 && offered[READ_ONLY] >= 0);
}

struct vmm {
	struct fuzz_input *input;
	int fd;
};

static bool take_agent(void *opaque, int fd)
{
	((struct vmm *)opaque)->fd = fd;
	return true;
}

/* One request, one answer: descriptors, then the text, on a line or not. */
static void answer(void *opaque, int own_fd)
{
	struct vmm *vmm = opaque;
	int fds[4];
	uint8_t choice = fuzz_u8(vmm->input);
	uint32_t count = choice & 3;
	for (uint32_t i = 0; i < count; i++)
		fds[i] = offered[fuzz_below(vmm->input, FDS)];
	size_t bytes;
	const uint8_t *text = fuzz_line(vmm->input, &bytes);
	void (*on_send)(void *, int) = fuzz_peers.on_send;
	fuzz_peers.on_send = NULL; // this is the VMM's own
	if (bytes)
		hf_attach_wire_send(vmm->fd, (const char *)text, bytes, fds, count, 0, -1);
	fuzz_peers.on_send = on_send;
	if (!(choice & 4))
		fuzz_peer_write(vmm->fd, "\n", 1);
	if (choice & 8)
		shutdown(vmm->fd, SHUT_RDWR);
	(void)own_fd;
}

static bool overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
	return a < b + b_bytes && b < a + a_bytes;
}

static void check_region(const struct hf_attached_region *regions, uint32_t index)
{
	const struct hf_attached_region *region = &regions[index];
	uint64_t mask = region->page_size_bytes - 1;
	fuzz_check(region->idstr[0] && region->page_size_bytes > 4096 && !(region->page_size_bytes & mask));
	fuzz_check(region->length_bytes && !(region->length_bytes & mask) && !(region->vmm_address & mask));
	fuzz_check(region->vmm_address && region->vmm_address + region->length_bytes > region->vmm_address);
	if (region->fd >= 0) {
		struct stat file;
		fuzz_check(fstat(region->fd, &file) == 0 && !(region->fd_offset_bytes & mask));
		fuzz_check(region->fd_offset_bytes + region->length_bytes <= (uint64_t)file.st_size);
	}
	for (uint32_t i = 0; i < index; i++)
		fuzz_check(strcmp(regions[i].idstr, region->idstr) != 0 &&
			   !overlap(regions[i].vmm_address, regions[i].length_bytes, region->vmm_address,
				    region->length_bytes));
}

static void use(struct hf_attach_client *client)
{
	uint32_t count;
	int fd = -1;
	struct hf_err err = HF_ERR_INIT;
	const struct hf_attached_region *regions = hf_attach_client_regions(client, &count);
	fuzz_check(count >= 1 && hf_attach_client_vm_name(client)[0]);
	for (uint32_t i = 0; i < count; i++)
		check_region(regions, i);
	if (hf_attach_client_userfault(client, HF_USERFAULT_MISSING, 0, &fd, &err))
		fuzz_check(fd == -1 && err.text[0]);
	else
		close(fd);
	err = HF_ERR_INIT;
	fuzz_check(hf_attach_client_release(client, &err) == 0 || err.text[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct fuzz_input input = {.at = data, .left = bytes};
	struct vmm vmm = {.input = &input};
	struct hf_attach_client *client = NULL;
	struct hf_err err = HF_ERR_INIT;
	make_offers();
	int first_fd = fuzz_next_fd();
	fuzz_peers_begin(&vmm);
	fuzz_peers.on_connect = take_agent;
	fuzz_peers.on_send = answer;
	if (hf_attach_client_connect(&client, "/fuzz", &err))
		fuzz_check(!client && err.class != HF_ERR_NONE && err.text[0]);
	else
		use(client);
	hf_attach_client_destroy(client);
	fuzz_peers_end();
	fuzz_check(fuzz_next_fd() == first_fd);
	return 0;
}
