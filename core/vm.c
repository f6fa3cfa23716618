/* SPDX-License-Identifier: Apache-2.0 */
#include "core/vm.h"

const char *hf_vm_op_name(enum hf_vm_op op)
{
	switch (op) {
	case HF_VM_STOP:
		return "stop";
	case HF_VM_SAVE:
		return "save";
	case HF_VM_RESUME:
		return "resume";
	case HF_VM_LOAD:
		return "load";
	case HF_VM_RUN:
		return "run";
	case HF_VM_FENCE:
		return "fence";
	case HF_VM_KILL:
		return "kill";
	case HF_VM_OPS:
		break;
	}
	return "unknown";
}
