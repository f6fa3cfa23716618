/* SPDX-License-Identifier: Apache-2.0 */
/*
 * program.h - what the subcommands of `hugeferry` share: entry points, exit codes, the voice.
 *
 * Purpose: one function for each subcommand, called by hugeferry.c with the arguments after the program's
 * name.
 * Ownership: a subcommand frees what it made before it returns.
 * Threads: called once, from the main thread, before any other thread exists.
 * Units: none.
 * Errors: the return value is the exit code; what failed has been said in one line on stderr.
 */
#ifndef HF_DEPLOY_PROGRAM_H
#define HF_DEPLOY_PROGRAM_H

#include "core/err.h"

enum hf_exit {
	HF_EXIT_OK = 0,	       /* completed; for `check`: nothing needed is missing */
	HF_EXIT_FAILED = 1,    /* failed; before the hand-over: the source VM runs on */
	HF_EXIT_USAGE = 2,     /* the command line is wrong; nothing was done */
	HF_EXIT_CANCELLED = 3, /* cancelled by a signal or by the other side */
	HF_EXIT_LINK_LOST = 4, /* the link was lost after the hand-over: the VM belongs to the destination */
	HF_EXIT_POISONED = 5,  /* completed without pages that are lost: the operator had them poisoned */
};

int hf_main_send(int argc, char **argv);
int hf_main_receive(int argc, char **argv);
int hf_main_demo(int argc, char **argv);
int hf_main_check(int argc, char **argv);
int hf_main_exec(int argc, char **argv); /* returns after a failure only */

/* "hugeferry COMMAND: text" on stderr, always exactly one line. */
void hf_complain(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
