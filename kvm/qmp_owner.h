/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qmp_owner.h - which process answers at a QMP socket.
 *
 * Purpose: SO_PEERCRED names who called listen(). That is not the VMM where a manager has made the socket and
 * passed it on, or where a program went into the background afterwards. What is frozen and killed must be the
 * VMM: the process that has the socket.
 *
 * Ownership: none. Threads: any.
 * Units: none.
 * Errors: 0 or -errno with text; -ENXIO: no process, or more than one, has it.
 */
#ifndef HF_KVM_QMP_OWNER_H
#define HF_KVM_QMP_OWNER_H

#include <sys/socket.h>

#include "core/err.h"

/* fd: connected to a unix socket with a name. A process whose sockets may not be seen is taken at its word.
 */
int hf_qmp_owner(int fd, struct ucred *owner, struct hf_err *err);

#endif
