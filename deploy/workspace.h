/* SPDX-License-Identifier: Apache-2.0 */
/*
 * workspace.h - a place for a demo: a folder, a hugetlbfs, huge pages.
 *
 * Purpose: takes from the host what a demo needs and gives all of it back, also when this process is killed:
 * a child waits for its end. Ownership: open/close; a zeroed struct may be closed. Threads: one; open before
 * any other thread exists. Units: bytes, pages of the named size. Errors: 0 or -errno with text.
 */
#ifndef HF_DEPLOY_WORKSPACE_H
#define HF_DEPLOY_WORKSPACE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/err.h"

struct hf_workspace {
	char folder[64];  /* sockets, reports, records */
	char runtime[96]; /* a tmpfs; where none can be mounted, the folder again */
	char huge[160];	  /* a hugetlbfs */
	char ram[2][192]; /* names for RAM files there */
	bool mounted, runtime_mounted;
	bool has_folder;
	uint64_t page_size_bytes;
	uint64_t pages_added; /* to the host's pool */
	pid_t keeper;	      /* clears away if this process is killed; 0: none */
	int keeper_fd;	      /* + 1; it reads the other end */
};

/* Makes `pages` huge pages available, reserving those that are missing. */
int hf_workspace_open(struct hf_workspace *workspace, uint64_t page_size_bytes, uint64_t pages,
		      struct hf_err *err);
/* Call when no process uses it any more. An error says what is left behind. */
int hf_workspace_close(struct hf_workspace *workspace, struct hf_err *err);

#endif
