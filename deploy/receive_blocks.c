/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which blocks of memory `receive` takes in. Theory of operation: a VMM whose author uses the attach library
 * names its regions as its memory backends. The library that `exec` preloads only knows files, so a region
 * that has no backend's name gets that of the backend whose mem-path is its file. Every backend must be lent:
 * what is not would have to come in the VMM's own stream, and does not.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "deploy/receive_internal.h"
#include "hugemem/residency.h"

static int check_lent(const struct receive *receive, const struct hf_attached_region *regions, uint32_t count,
		      const struct hf_qmp_vm_block *backends, uint32_t backend_count, struct hf_err *err)
{
	for (uint32_t i = 0; i < backend_count; i++) {
		bool lent = false;
		for (uint32_t j = 0; j < count; j++)
			lent |= strcmp(regions[j].idstr, backends[i].idstr) == 0;
		if (!lent)
			return hf_err_set(
			    err, HF_ERR_LOCAL, EINVAL,
			    "the VMM does not lend its memory backend '%s' over --attach %s; it must be a "
			    "memory-backend-file with share=on and a mem-path that names a file on hugetlbfs",
			    backends[i].idstr, receive->options.attach);
	}
	return 0;
}

/* Another process would see a page before it has come, as zeros, and fill the file with them. */
static int check_unshared(const struct receive *receive, const struct hf_attached_region *regions,
			  uint32_t count, struct hf_err *err)
{
	for (uint32_t i = 0; i < count; i++) {
		int result = regions[i].fd < 0
				 ? 0
				 : hf_file_check_unshared(regions[i].fd, hf_qmp_vm_pid(receive->vm), err);
		if (result) {
			hf_err_prefix(err, "memory '%s': end the process and start the waiting VMM afresh",
				      regions[i].idstr);
			return result;
		}
	}
	return 0;
}

static int name_by_backends(struct receive *receive, const struct hf_attached_region *regions, uint32_t count,
			    struct hf_err *err)
{
	struct hf_qmp_vm_block *backends = NULL;
	uint32_t backend_count = 0;
	int result = hf_qmp_vm_blocks(receive->vm, &backends, &backend_count, err);
	struct hf_block_file *files = result ? NULL : calloc(backend_count + 1, sizeof(*files));
	if (!result && !files)
		result = hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	for (uint32_t i = 0; !result && i < backend_count; i++)
		files[i] = (struct hf_block_file){backends[i].idstr, backends[i].path};
	if (!result)
		result = hf_attach_client_name_regions(receive->attach, files, backend_count, err);
	if (!result)
		result = check_lent(receive, regions, count, backends, backend_count, err);
	if (!result)
		result = check_unshared(receive, regions, count, err);
	free(files);
	hf_qmp_vm_blocks_free(backends, backend_count);
	return result;
}

/* Whether they are these is asked afterwards (hf_receive_check_kept()). */
static int name_by_kept(struct receive *receive, uint32_t count, struct hf_err *err)
{
	const struct hf_ramblocks *kept = hf_kept_pages_description(receive->kept)->blocks;
	int result = 0;
	for (uint32_t i = 0; !result && i < count && i < kept->count; i++)
		result = hf_attach_client_name_region(receive->attach, i, kept->blocks[i].idstr, err);
	return result;
}

int hf_receive_learn_blocks(struct receive *receive, struct hf_err *err)
{
	uint32_t count = 0;
	const struct hf_attached_region *regions = hf_attach_client_regions(receive->attach, &count);
	int result = receive->kept ? name_by_kept(receive, count, err)
				   : name_by_backends(receive, regions, count, err);
	for (uint32_t i = 0; !result && i < count; i++)
		result = hf_ramblocks_add(&receive->blocks, regions[i].idstr, regions[i].length_bytes,
					  regions[i].page_size_bytes, err);
	return result;
}
