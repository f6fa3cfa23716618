/* SPDX-License-Identifier: Apache-2.0 */
/*
 * process_stat.h - what /proc says of a process or a thread, and which boot this is.
 *
 * Purpose: the one reader of /proc/PID/stat. A pid comes to mean another process when its own has ended; with
 * the time it was started and the boot it lives in it cannot.
 * Ownership: plain values. Threads: none inside. Units: clock ticks since boot.
 * Errors: 0 or -errno. -ENOENT, -ESRCH: it has ended, or is hidden from us; -EPROTO: the text is not
 * understood.
 */
#ifndef HF_HUGEMEM_PROCESS_STAT_H
#define HF_HUGEMEM_PROCESS_STAT_H

#include <stdint.h>
#include <sys/types.h>

#define HF_PROCESS_NAME_BYTES 32
#define HF_BOOT_ID_CHARS      36
#define HF_BOOT_ID_BYTES      40 /* the kernel's text of 36 characters, padded with NUL */

struct hf_process_stat {
	char name[HF_PROCESS_NAME_BYTES]; /* cut to fit */
	char state;			  /* 'R', 'T', 'Z', ... */
	uint64_t threads;
	uint64_t start_ticks;
};

int hf_process_stat(pid_t pid, struct hf_process_stat *stat);
/* path: of a file `stat`, from the folder. */
int hf_process_stat_at(int folder_fd, const char *path, struct hf_process_stat *stat);
int hf_boot_id(char boot_id[static HF_BOOT_ID_BYTES]);

#endif
