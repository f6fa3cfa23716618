/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `hugeferry exec`. Theory of operation: becomes the VMM, with the attach library in front of what LD_PRELOAD
 * names and the path of the attach socket in the environment (hugemem/attach_preload.c reads both and takes
 * them out again). The VMM must be the program itself, not a shell that starts it. What would only show when
 * somebody wants to move the VM is refused here: a socket that cannot be made, a library that is not there.
 */
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "deploy/options.h"
#include "deploy/program.h"
#include "hugemem/attach_preload.h"

#define COMMAND "exec"

/* The VMM may change its directory. */
static int socket_path(const char *given, char path[static PATH_MAX], struct hf_err *err)
{
	char here[PATH_MAX] = "";
	if (*given != '/' && !getcwd(here, sizeof(here)))
		return hf_err_set(err, HF_ERR_LOCAL, errno, "the working directory: %s", strerror(errno));
	int length = snprintf(path, PATH_MAX, "%s%s%s", here, *here ? "/" : "", given);
	if (length < 0 || (size_t)length >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return hf_err_set(err, HF_ERR_LOCAL, ENAMETOOLONG,
				  "--attach %s: the path is too long for a socket", given);
	char copy[PATH_MAX];
	memcpy(copy, path, (size_t)length + 1);
	if (access(dirname(copy), W_OK | X_OK))
		return hf_err_set(err, HF_ERR_LOCAL, errno, "--attach %s: no socket can be made there: %s",
				  given, strerror(errno));
	return 0;
}

/* Where this program was built, or where it was installed. */
static int find_library(char path[static PATH_MAX], struct hf_err *err)
{
	char self[PATH_MAX] = "";
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (length > 0 &&
	    snprintf(path, PATH_MAX, "%s/../hugemem/" HF_ATTACH_PRELOAD_NAME, dirname(self)) < PATH_MAX &&
	    access(path, R_OK) == 0)
		return 0;
	snprintf(path, PATH_MAX, "%s", HF_ATTACH_PRELOAD_DIR "/" HF_ATTACH_PRELOAD_NAME);
	if (access(path, R_OK) == 0)
		return 0;
	return hf_err_set(err, HF_ERR_LOCAL, errno, "the attach library %s: %s", path, strerror(errno));
}

static int set_environment(const char *socket, const char *library, struct hf_err *err)
{
	const char *others = getenv("LD_PRELOAD");
	char *all = NULL;
	if (asprintf(&all, "%s%s%s", library, others && *others ? ":" : "", others ? others : "") < 0)
		all = NULL;
	int result =
	    !all || setenv("LD_PRELOAD", all, 1) || setenv(HF_ATTACH_PRELOAD_SOCKET, socket, 1) ? -ENOMEM : 0;
	free(all);
	return result ? hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory") : 0;
}

static int become(const struct hf_options *options, struct hf_err *err)
{
	char socket[PATH_MAX], library[PATH_MAX];
	int result = socket_path(options->attach, socket, err);
	if (!result)
		result = find_library(library, err);
	if (!result)
		result = set_environment(socket, library, err);
	if (result)
		return result;
	execvp(options->program[0], options->program);
	return hf_err_set(err, HF_ERR_LOCAL, errno, "%s cannot be run: %s", options->program[0],
			  strerror(errno));
}

int hf_main_exec(int argc, char **argv)
{
	struct hf_options options;
	struct hf_err err = HF_ERR_INIT;
	int result = hf_options_parse(HF_COMMAND_EXEC, argc, argv, &options, &err);
	if (result > 0)
		return HF_EXIT_OK;
	if (result < 0) {
		hf_complain(COMMAND, "%s", err.text);
		return HF_EXIT_USAGE;
	}
	become(&options, &err);
	hf_complain(COMMAND, "%s", err.text);
	return HF_EXIT_FAILED;
}
