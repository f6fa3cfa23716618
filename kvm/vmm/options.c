/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.c - the command line of hugeferry-vmm.
 *
 * Theory of operation. Options are a table: name, and a function that checks one value and stores it. What
 * concerns several options at once (required ones, memory against page size) is checked at the end.
 */
#include "kvm/vmm/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "core/ramblock.h"
#include "kvm/guest/layout.h"

const char vmm_options_help[] =
    "Usage: hugeferry-vmm --mem SIZE --page-size 2M|1G --ram-file PATH --qmp unix:PATH [OPTION]...\n"
    "\n"
    "A small virtual machine whose memory is huge pages. Its guest checks every byte of memory\n"
    "it visits, so a page lost, stale or torn by a migration is seen.\n"
    "\n"
    "  --mem SIZE            memory, with K, M, G or T; a multiple of the page size\n"
    "  --page-size 2M|1G     size of the huge pages; small pages are never used instead\n"
    "  --ram-file PATH       file to make for the memory, on a hugetlbfs mount of that page size\n"
    "  --qmp unix:PATH       QMP control socket to make\n"
    "  --vcpus N             1 to 64 (default 1)\n"
    "  --accel kvm|user      what executes the guest (default kvm): /dev/kvm, or for hosts without it and "
    "for\n"
    "                        tests the vCPUs' threads themselves, in user mode. The guest is not isolated\n"
    "                        from this program then\n"
    "  --id IDSTR            name of the memory backend (default ram0)\n"
    "  --name NAME           name of the VM (default: vm)\n"
    "  --attach PATH         socket to make for the attach hand-off of guest memory; with --incoming "
    "nothing\n"
    "                        runs before it is attached, without it lets the writes of the running VM be\n"
    "                        tracked\n"
    "  --incoming defer      start without a guest and wait for `migrate-incoming`; guest memory is not\n"
    "                        touched before device state has been loaded\n"
    "  --die-with-parent     end when the process that started this one ends\n"
    "  --help                show this text\n"
    "\n"
    "The guest (with --incoming they are checked, but the guest that arrives keeps its own):\n"
    "  --pattern P           sequential, random, or hot: 9 in 10 visits go to a tenth of the pages\n"
    "                        (default random)\n"
    "  --write-share PERCENT share of visits that write (default 50)\n"
    "  --fill PERCENT        share of pages that exist at the start, the rest are holes (default 100)\n"
    "  --seed N              of all randomness (default 1)\n"
    "  --pace STEPS          steps a second of each vCPU, at most; a step visits one page (default: as fast "
    "as it\n"
    "                        can). The pace goes with the VM\n";

static int bad_value(const char *option, const char *value, const char *wanted, struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "--%s: '%s' is no %s", option, value, wanted);
}

static bool parse_number(const char *text, uint64_t *number, const char **rest)
{
	char *end;

	if (text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	if (errno)
		return false;
	*number = value;
	*rest = end;
	return true;
}

static bool parse_size(const char *text, uint64_t *bytes)
{
	static const char suffixes[] = "KMGT";
	const char *rest;
	uint64_t value;

	if (!parse_number(text, &value, &rest))
		return false;
	const char *suffix = *rest ? strchr(suffixes, *rest) : NULL;
	if (*rest && (!suffix || rest[1]))
		return false;
	uint64_t unit = suffix ? 1ull << 10 * (suffix - suffixes + 1) : 1;
	return !__builtin_mul_overflow(value, unit, bytes);
}

static int parse_u32(const char *option, const char *text, uint32_t lowest, uint32_t highest, uint32_t *out,
		     struct hf_err *err)
{
	const char *rest;
	uint64_t value;

	if (!parse_number(text, &value, &rest) || *rest || value < lowest || value > highest)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "--%s: '%s' is no number from %u to %u", option,
				  text, lowest, highest);
	*out = (uint32_t)value;
	return 0;
}

static int set_mem(struct vmm_options *options, const char *value, struct hf_err *err)
{
	if (!parse_size(value, &options->guest.memory_bytes) || !options->guest.memory_bytes)
		return bad_value("mem", value, "size like 512M or 4G", err);
	return 0;
}

static int set_page_size(struct vmm_options *options, const char *value, struct hf_err *err)
{
	if (!parse_size(value, &options->guest.page_size_bytes) ||
	    (options->guest.page_size_bytes != 2ull << 20 && options->guest.page_size_bytes != 1ull << 30))
		return bad_value("page-size", value, "page size; 2M and 1G are possible", err);
	return 0;
}

static int set_vcpus(struct vmm_options *options, const char *value, struct hf_err *err)
{
	return parse_u32("vcpus", value, 1, HF_GUEST_VCPUS_MAX, &options->guest.vcpus, err);
}

static int set_write_share(struct vmm_options *options, const char *value, struct hf_err *err)
{
	return parse_u32("write-share", value, 0, 100, &options->guest.write_percent, err);
}

static int set_fill(struct vmm_options *options, const char *value, struct hf_err *err)
{
	return parse_u32("fill", value, 0, 100, &options->guest.fill_percent, err);
}

static int set_pace(struct vmm_options *options, const char *value, struct hf_err *err)
{
	return parse_u32("pace", value, 1, HF_GUEST_PACE_MAX, &options->guest.pace_steps_per_s, err);
}

static int set_seed(struct vmm_options *options, const char *value, struct hf_err *err)
{
	const char *rest;
	if (!parse_number(value, &options->guest.seed, &rest) || *rest)
		return bad_value("seed", value, "number", err);
	return 0;
}

static int set_pattern(struct vmm_options *options, const char *value, struct hf_err *err)
{
	if (!strcmp(value, "sequential"))
		options->guest.pattern = HF_GUEST_SEQUENTIAL;
	else if (!strcmp(value, "random"))
		options->guest.pattern = HF_GUEST_RANDOM;
	else if (!strcmp(value, "hot"))
		options->guest.pattern = HF_GUEST_HOT;
	else
		return bad_value("pattern", value, "pattern; sequential, random and hot are possible", err);
	return 0;
}

static int set_ram_file(struct vmm_options *options, const char *value, struct hf_err *err)
{
	if (value[0] != '/' || strlen(value) > 255)
		return bad_value("ram-file", value, "absolute path of at most 255 bytes", err);
	options->ram_file = value;
	return 0;
}

static int check_socket_path(const char *option, const char *value, struct hf_err *err)
{
	if (value[0] != '/' || strlen(value) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		return bad_value(option, value, "absolute path of at most 107 bytes", err);
	return 0;
}

static int set_qmp(struct vmm_options *options, const char *value, struct hf_err *err)
{
	if (strncmp(value, "unix:", 5))
		return bad_value("qmp", value, "address; it must be unix:PATH", err);
	options->qmp_path = value + 5;
	return check_socket_path("qmp", options->qmp_path, err);
}

static int set_attach(struct vmm_options *options, const char *value, struct hf_err *err)
{
	options->attach_path = value;
	return check_socket_path("attach", value, err);
}

static bool is_plain_name(const char *value)
{
	size_t length = strlen(value);
	for (size_t i = 0; i < length; i++)
		if (value[i] <= ' ' || value[i] >= 0x7f || value[i] == '/' || value[i] == '"')
			return false;
	return length && length <= HF_RAMBLOCK_IDSTR_MAX;
}

static int set_id(struct vmm_options *options, const char *value, struct hf_err *err)
{
	if (!is_plain_name(value))
		return bad_value("id", value, "name (printable, no space, no slash)", err);
	options->id = value;
	return 0;
}

static int set_name(struct vmm_options *options, const char *value, struct hf_err *err)
{
	if (!is_plain_name(value))
		return bad_value("name", value, "name (printable, no space, no slash)", err);
	options->name = value;
	return 0;
}

static int set_accel(struct vmm_options *options, const char *value, struct hf_err *err)
{
	if (!strcmp(value, "kvm"))
		options->accel = VMM_ACCEL_KVM;
	else if (!strcmp(value, "user"))
		options->accel = VMM_ACCEL_USER;
	else
		return bad_value("accel", value, "accelerator; kvm and user are possible", err);
	return 0;
}

static int set_incoming(struct vmm_options *options, const char *value, struct hf_err *err)
{
	if (strcmp(value, "defer"))
		return bad_value("incoming", value, "way to start; only 'defer' is possible", err);
	options->incoming = true;
	return 0;
}

static const struct {
	const char *name;
	int (*set)(struct vmm_options *options, const char *value, struct hf_err *err);
} valued[] = {
    {"mem", set_mem},
    {"page-size", set_page_size},
    {"ram-file", set_ram_file},
    {"qmp", set_qmp},
    {"vcpus", set_vcpus},
    {"accel", set_accel},
    {"id", set_id},
    {"name", set_name},
    {"attach", set_attach},
    {"incoming", set_incoming},
    {"pattern", set_pattern},
    {"write-share", set_write_share},
    {"fill", set_fill},
    {"seed", set_seed},
    {"pace", set_pace},
};

enum { VALUED = sizeof(valued) / sizeof(valued[0]), HELP = 1000, DIE_WITH_PARENT };

static int check_together(const struct vmm_options *options, struct hf_err *err)
{
	const char *missing = !options->guest.memory_bytes	? "mem"
			      : !options->guest.page_size_bytes ? "page-size"
			      : !options->ram_file		? "ram-file"
			      : !options->qmp_path		? "qmp"
								: NULL;
	if (missing)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "--%s is required", missing);
	if (options->guest.memory_bytes % options->guest.page_size_bytes)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "--mem must be a multiple of --page-size");
	if (options->guest.memory_bytes > HF_GUEST_MEMORY_MAX)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "--mem: at most 256G are possible");
	return 0;
}

static int take_option(struct vmm_options *options, int option, struct hf_err *err)
{
	if (option == HELP)
		options->help = true;
	else if (option == DIE_WITH_PARENT)
		options->die_with_parent = true;
	else
		return valued[option].set(options, optarg, err);
	return 0;
}

int vmm_options_parse(struct vmm_options *out, int argc, char **argv, struct hf_err *err)
{
	struct vmm_options options = {
	    .guest =
		{.pattern = HF_GUEST_RANDOM, .vcpus = 1, .write_percent = 50, .fill_percent = 100, .seed = 1},
	    .name = "vm",
	    .id = "ram0",
	};
	struct option table[VALUED + 3] = {0};
	for (int i = 0; i < VALUED; i++)
		table[i] = (struct option){valued[i].name, required_argument, NULL, i};
	table[VALUED] = (struct option){"help", no_argument, NULL, HELP};
	table[VALUED + 1] = (struct option){"die-with-parent", no_argument, NULL, DIE_WITH_PARENT};

	opterr = 0;
	for (int option; (option = getopt_long(argc, argv, ":", table, NULL)) != -1;) {
		if (option == ':')
			return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "%s needs a value", argv[optind - 1]);
		if (option == '?')
			return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "unknown option '%s'; --help lists them",
					  argv[optind - 1]);
		int result = take_option(&options, option, err);
		if (result)
			return result;
	}
	if (optind < argc && !options.help)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "'%s' is no option; --help lists them",
				  argv[optind]);
	int result = options.help ? 0 : check_together(&options, err);
	if (!result)
		*out = options;
	return result;
}
