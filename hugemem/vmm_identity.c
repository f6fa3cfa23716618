/* SPDX-License-Identifier: Apache-2.0 */
#include "hugemem/vmm_identity.h"

#include <errno.h>
#include <string.h>

int hf_vmm_identity_of(pid_t pid, struct hf_vmm_identity *identity, struct hf_err *err)
{
	struct hf_process_stat stat;

	*identity = (struct hf_vmm_identity){.pid = pid};
	int result = hf_process_stat(pid, &stat);
	if (result)
		return hf_err_set(err, HF_ERR_LOCAL, result == -ENOENT ? ESRCH : -result,
				  "cannot look at the VMM's process %d: %s; has it exited?", (int)pid,
				  strerror(result == -ENOENT ? ESRCH : -result));
	identity->started_ticks = stat.start_ticks;
	result = hf_boot_id(identity->boot_id);
	if (result)
		return hf_err_set(err, HF_ERR_LOCAL, -result, "cannot read the kernel's boot id: %s",
				  strerror(-result));
	return 0;
}

bool hf_vmm_identity_equal(const struct hf_vmm_identity *one, const struct hf_vmm_identity *other)
{
	return one->pid == other->pid && one->started_ticks == other->started_ticks &&
	       memcmp(one->boot_id, other->boot_id, sizeof(one->boot_id)) == 0;
}
