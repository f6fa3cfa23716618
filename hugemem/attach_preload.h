/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach_preload.h - what starts a VMM with the attach library preloaded has to say.
 *
 * Purpose: the name of the object and of the variable that `hugeferry exec` sets and attach_preload.c reads.
 * Ownership, threads, units, errors: none.
 */
#ifndef HF_HUGEMEM_ATTACH_PRELOAD_H
#define HF_HUGEMEM_ATTACH_PRELOAD_H

#define HF_ATTACH_PRELOAD_NAME	 "libhugeferry-attach.so"
#define HF_ATTACH_PRELOAD_SOCKET "HUGEFERRY_ATTACH" /* the attach socket's path */

#endif
