/* SPDX-License-Identifier: Apache-2.0 */
/* Apart from the pool, for the attach library: a VMM that is lent shall not load libhugetlbfs. */
#include <errno.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/vfs.h>

#include "hugemem/hugepool.h"

int hf_hugetlbfs_page_size(int fd, uint64_t *page_size_bytes, struct hf_err *err)
{
	struct statfs fs;
	if (fstatfs(fd, &fs))
		return hf_err_set(err, HF_ERR_LOCAL, errno, "cannot tell the file system of a file: %s",
				  strerror(errno));
	if (fs.f_type != HUGETLBFS_MAGIC)
		return hf_err_set(err, HF_ERR_LOCAL, EMEDIUMTYPE,
				  "the file is not on hugetlbfs; guest memory must be made of huge pages");
	*page_size_bytes = (uint64_t)fs.f_bsize;
	return 0;
}
