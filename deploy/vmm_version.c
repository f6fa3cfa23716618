/* SPDX-License-Identifier: Apache-2.0 */
/* Theory of operation: a warning, never a refusal; what a VMM cannot do it says when it is asked to. */
#include "deploy/vmm_version.h"

#include "deploy/program.h"

int hf_warn_untested(const char *command, struct hf_qmp_vm *vm, const char *target, struct hf_err *err)
{
	char version[64];
	bool tested;
	int result = hf_qmp_vm_version(vm, version, sizeof(version), &tested, err);
	if (!result && !tested)
		hf_complain(command,
			    "warning: the VMM at %s is %s, which Hugeferry has not been tested with (tested: "
			    "QEMU " HF_QMP_VM_TESTED ")",
			    target, version);
	return result;
}
