/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line. Theory of operation: `specs` is the only place that knows an option. For a subcommand the
 * rows that name it become getopt_long's table, in the same order, so that the index getopt_long
 * returns leads back to the row; the row's kind says how the value is checked and where it goes. What
 * is required is a second mask of the same row.
 */
#include "deploy/options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/wire.h"

#define SEND	HF_COMMAND_SEND
#define RECEIVE HF_COMMAND_RECEIVE
#define CHECK	HF_COMMAND_CHECK
#define DEMO	HF_COMMAND_DEMO
#define EXEC	HF_COMMAND_EXEC

enum kind {
	KIND_FLAG,   /* bool */
	KIND_TEXT,   /* const char * */
	KIND_SIZE,   /* uint64_t */
	KIND_COUNT,  /* uint32_t between min and max */
	KIND_SEED,   /* uint64_t */
	KIND_CHOICE, /* uint32_t: index in choices */
};

struct spec {
	const char *name;
	const char *value; /* its name in --help */
	unsigned commands, required;
	enum kind kind;
	size_t offset;
	uint64_t min, max; /* KIND_COUNT, KIND_SIZE */
	const char *const *choices;
	const char *help;
};

static const char *const placements[] = {"auto", "copy", "continue", NULL};
static const char *const transports[] = {"tcp", "unix", NULL};
static const char *const patterns[] = {"sequential", "random", "hot", NULL};

#define AT(field) offsetof(struct hf_options, field)

static const struct spec specs[] = {
    {"vm", "qmp:PATH", SEND | RECEIVE, SEND | RECEIVE, KIND_TEXT, AT(vm), 0, 0, NULL,
     "QMP socket of the VM; to send it must be running, to receive it must be in inmigrate"},
    {"to", "URI", SEND | CHECK, SEND, KIND_TEXT, AT(to), 0, 0, NULL,
     "where `hugeferry receive` listens: tcp:HOST:PORT, rdma:HOST:PORT or unix:PATH"},
    {"listen", "URI", RECEIVE | DEMO, RECEIVE, KIND_TEXT, AT(listen), 0, 0, NULL,
     "tcp:HOST:PORT, rdma:HOST:PORT (port 0: any free one) or unix:PATH; `listening on URI` is printed "
     "when ready (demo: instead of --transport)"},
    {"attach", "PATH", SEND | RECEIVE | EXEC, RECEIVE | EXEC, KIND_TEXT, AT(attach), 0, 0, NULL,
     "attach socket of the VMM, which exec has it make: to receive, over which its memory is handed out; to "
     "send with --precopy, over which its writes are tracked"},
    {"precopy", NULL, SEND, 0, KIND_FLAG, AT(precopy), 0, 0, NULL,
     "move pages in rounds while the VM runs, and by postcopy only what rounds cannot; wants --attach"},
    {"precopy-only", NULL, SEND, 0, KIND_FLAG, AT(precopy_only), 0, 0, NULL,
     "the same without postcopy: rounds go on until the rest fits into --downtime-limit, or --timeout "
     "cancels"},
    {"postcopy-after", "S", SEND, 0, KIND_COUNT, AT(postcopy_after_s), 1, 86400, NULL,
     "with --precopy: no more rounds after S seconds (default: until they no longer help)"},
    {"downtime-limit", "MS", SEND, 0, KIND_COUNT, AT(downtime_limit_ms), 1, 2000000, NULL,
     "with --precopy: the longest pause, as far as it can be told (default 300)"},
    {"max-bandwidth", "SIZE", SEND, 0, KIND_SIZE, AT(max_bandwidth_bytes), 0, UINT64_MAX, NULL,
     "with --precopy: bytes a second of rounds; 0: no limit (default 0)"},
    {"mem", "SIZE", DEMO, 0, KIND_SIZE, AT(mem_bytes), 1, UINT64_MAX, NULL, "guest memory (default 2G)"},
    {"page-size", "SIZE", DEMO, 0, KIND_SIZE, AT(page_size_bytes), 1, UINT64_MAX, NULL,
     "size of the huge pages (default 2M)"},
    {"vcpus", "N", DEMO, 0, KIND_COUNT, AT(vcpus), 1, 64, NULL, "vCPUs (default 2)"},
    {"transport", "tcp|unix", DEMO, 0, KIND_CHOICE, AT(transport), 0, 0, transports,
     "link between the two sides (default tcp)"},
    {"pattern", "sequential|random|hot", DEMO, 0, KIND_CHOICE, AT(pattern), 0, 0, patterns,
     "how the guest goes through its memory (default random)"},
    {"write-share", "PERCENT", DEMO, 0, KIND_COUNT, AT(write_percent), 0, 100, NULL,
     "share of the guest's visits that write (default 30)"},
    {"fill", "PERCENT", DEMO, 0, KIND_COUNT, AT(fill_percent), 1, 100, NULL,
     "share of guest memory that exists at the start (default 100)"},
    {"seed", "N", DEMO, 0, KIND_SEED, AT(seed), 0, UINT64_MAX, NULL, "seed of the guest's pattern"},
    {"placement", "auto|copy|continue", SEND | RECEIVE | DEMO, 0, KIND_CHOICE, AT(placement), 0, 0,
     placements, "how pages become visible (default auto: continue where it can be had)"},
    {"channels", "N", SEND | RECEIVE | CHECK | DEMO, 0, KIND_COUNT, AT(channels), 1, HF_WIRE_CHANNELS_MAX,
     NULL, "page channels for urgent and for background pages each (default 2)"},
    {"chunk-size", "SIZE", RECEIVE | DEMO, 0, KIND_SIZE, AT(chunk_bytes), HF_WIRE_CHUNK_MIN_BYTES,
     HF_WIRE_CHUNK_MAX_BYTES, NULL, "bytes fetched at once; a power of two (default: the engine's)"},
    {"no-background", NULL, SEND | RECEIVE | DEMO, 0, KIND_FLAG, AT(no_background), 0, 0, NULL,
     "fetch only pages a thread waits for, until SIGUSR1 starts the background"},
    {"demand-only-seconds", "S", DEMO, 0, KIND_COUNT, AT(demand_only_s), 0, 3600, NULL,
     "with --no-background: how long the guest runs before the background starts (default 1)"},
    {"keep-going-seconds", "S", DEMO, 0, KIND_COUNT, AT(keep_going_s), 0, 3600, NULL,
     "how long the guest runs on after the last page (default 1)"},
    {"compare", NULL, DEMO, 0, KIND_FLAG, AT(compare), 0, 0, NULL,
     "keep the source's memory and compare it with the destination's, byte by byte"},
    {"timeout", "S", SEND, 0, KIND_COUNT, AT(timeout_s), 0, 86400, NULL,
     "cancel when the VM has not been handed over after S seconds; 0: wait for ever (default 0)"},
    {"switchover-timeout", "S", SEND, 0, KIND_COUNT, AT(switchover_timeout_s), 0, 86400, NULL,
     "cancel, and let the VM run on, when it stands still for S seconds and is not handed over; 0: wait for "
     "ever (default 30)"},
    {"max-page-stall", "MS", SEND | RECEIVE | CHECK, 0, KIND_COUNT, AT(max_page_stall_ms), 1, 3600000, NULL,
     "refuse a link on which a thread would wait longer for one page (default: only warn, above 500 ms)"},
    {"max-postcopy-bandwidth", "SIZE", RECEIVE, 0, KIND_SIZE, AT(max_postcopy_bandwidth), 0, UINT64_MAX, NULL,
     "bytes a second of the pages nobody waits for; those a thread waits for know no limit (default 0: "
     "none)"},
    {"recover-timeout", "S", SEND | RECEIVE, 0, KIND_COUNT, AT(recover_timeout_s), 0, 86400, NULL,
     "how long a new link is looked for when one is lost after the hand-over; 0: end at once (default 300)"},
    {"state-dir", "DIR", SEND | RECEIVE, 0, KIND_TEXT, AT(state_dir), 0, 0, NULL,
     "durable records of who may run a VM (default /var/lib/hugeferry)"},
    {"runtime-dir", "DIR", RECEIVE, 0, KIND_TEXT, AT(runtime_dir), 0, 0, NULL,
     "maps of the pages that are here, on a tmpfs (default /run/hugeferry)"},
    {"poison-missing", NULL, RECEIVE, 0, KIND_FLAG, AT(poison_missing), 0, 0, NULL,
     "the source is gone for good: take over the VM that an earlier receive has left here, give its guest "
     "memory "
     "errors for the pages that are missing, and end (exit code 5)"},
    {"keep", NULL, SEND, 0, KIND_FLAG, AT(keep), 0, 0, NULL,
     "do not end the source's VMM afterwards; it stays frozen and must not be run again"},
    {"release-ram", NULL, SEND, 0, KIND_FLAG, AT(release_ram), 0, 0, NULL,
     "give each page back to this host when the destination has placed it, once the VM runs there: what is "
     "left here can then not be salvaged if the destination host is lost"},
    {"vmm", "PATH", DEMO, 0, KIND_TEXT, AT(vmm), 0, 0, NULL,
     "the reference VMM (default: hugeferry-vmm next to this program)"},
    {"json", "FILE", SEND | RECEIVE | CHECK | DEMO, 0, KIND_TEXT, AT(json), 0, 0, NULL,
     "write the report as JSON to FILE"},
    {"qmp", "unix:PATH", SEND | RECEIVE, 0, KIND_TEXT, AT(qmp), 0, 0, NULL,
     "answer QMP there while it runs: look, pause, recover, cancel, set parameters, hear MIGRATION events"},
};

#define SPECS (sizeof(specs) / sizeof(specs[0]))

static const char *const command_names[] = {
    [SEND] = "send", [RECEIVE] = "receive", [CHECK] = "check", [DEMO] = "demo", [EXEC] = "exec"};

static int bad(struct hf_err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int bad(struct hf_err *err, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	int result = hf_err_vset(err, HF_ERR_LOCAL, EINVAL, format, args);
	va_end(args);
	return result;
}

int hf_parse_count(const char *text, uint64_t max, uint64_t *count)
{
	uint64_t value = 0;
	if (!*text)
		return -EINVAL;
	for (; *text; text++) {
		if (!isdigit((unsigned char)*text))
			return -EINVAL;
		if (__builtin_mul_overflow(value, 10u, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
			return -ERANGE;
	}
	if (value > max)
		return -ERANGE;
	*count = value;
	return 0;
}

int hf_parse_size(const char *text, uint64_t *bytes)
{
	static const char units[] = "KMGT";
	char digits[24];
	size_t length = strlen(text);
	if (!length || length >= sizeof(digits))
		return -EINVAL;

	unsigned shift = 0;
	const char *unit = strchr(units, text[length - 1]);
	memcpy(digits, text, length + 1);
	if (unit) {
		shift = 10u * (unsigned)(unit - units + 1);
		digits[length - 1] = '\0';
	}
	uint64_t count = 0;
	int result = hf_parse_count(digits, UINT64_MAX >> shift, &count);
	if (!result)
		*bytes = count << shift;
	return result;
}

static int set_choice(const struct spec *spec, uint32_t *field, const char *value, struct hf_err *err)
{
	for (uint32_t i = 0; spec->choices[i]; i++) {
		if (!strcmp(spec->choices[i], value)) {
			*field = i;
			return 0;
		}
	}
	return bad(err, "--%s wants %s, not '%s'", spec->name, spec->value, value);
}

static int set_count(const struct spec *spec, uint32_t *field, const char *value, struct hf_err *err)
{
	uint64_t count = 0;
	if (hf_parse_count(value, spec->max, &count) || count < spec->min)
		return bad(err, "--%s wants a number from %llu to %llu, not '%s'", spec->name,
			   (unsigned long long)spec->min, (unsigned long long)spec->max, value);
	*field = (uint32_t)count;
	return 0;
}

static int set_size(const struct spec *spec, uint64_t *field, const char *value, struct hf_err *err)
{
	uint64_t bytes = 0;
	if (hf_parse_size(value, &bytes))
		return bad(err, "--%s wants a size such as 64K, 2M or 1G, not '%s'", spec->name, value);
	if (bytes < spec->min || bytes > spec->max)
		return bad(err, "--%s: %s is out of range", spec->name, value);
	*field = bytes;
	return 0;
}

static int set_value(const struct spec *spec, struct hf_options *options, const char *value,
		     struct hf_err *err)
{
	void *field = (char *)options + spec->offset;
	switch (spec->kind) {
	case KIND_FLAG:
		*(bool *)field = true;
		return 0;
	case KIND_TEXT:
		if (!*value)
			return bad(err, "--%s wants %s, not an empty text", spec->name, spec->value);
		*(const char **)field = value;
		return 0;
	case KIND_SIZE:
		return set_size(spec, field, value, err);
	case KIND_COUNT:
		return set_count(spec, field, value, err);
	case KIND_SEED:
		if (hf_parse_count(value, UINT64_MAX, field))
			return bad(err, "--%s wants a number, not '%s'", spec->name, value);
		return 0;
	case KIND_CHOICE:
		return set_choice(spec, field, value, err);
	}
	return bad(err, "--%s cannot be parsed", spec->name);
}

static void print_help(enum hf_command command)
{
	printf("usage: hugeferry %s [OPTION...]%s\n\n", command_names[command],
	       command == EXEC ? " -- PROGRAM [ARGUMENT...]" : "");
	for (size_t i = 0; i < SPECS; i++) {
		if (!(specs[i].commands & command))
			continue;
		char left[64];
		snprintf(left, sizeof(left), "--%s%s%s", specs[i].name, specs[i].value ? " " : "",
			 specs[i].value ? specs[i].value : "");
		printf("  %-32s %s%s\n", left, specs[i].help,
		       specs[i].required & command ? " (required)" : "");
	}
	printf("  %-32s %s\n", "--help", "this text");
}

static void set_defaults(struct hf_options *options)
{
	*options = (struct hf_options){
	    .channels = 2,
	    .switchover_timeout_s = 30,
	    .recover_timeout_s = 300,
	    .state_dir = "/var/lib/hugeferry",
	    .runtime_dir = "/run/hugeferry",
	    .mem_bytes = 2ull << 30,
	    .page_size_bytes = 2ull << 20,
	    .vcpus = 2,
	    .pattern = 1,
	    .write_percent = 30,
	    .fill_percent = 100,
	    .seed = 1,
	    .demand_only_s = 1,
	    .keep_going_s = 1,
	};
}

int hf_options_vm_key(const struct hf_options *options, char key[static HF_VM_KEY_BYTES], struct hf_err *err)
{
	const char *path = options->vm;
	char here[HF_VM_KEY_BYTES] = "";
	if (strncmp(path, "qmp:", 4) == 0)
		path += 4;
	if (*path != '/' && !getcwd(here, sizeof(here)))
		return hf_err_set(err, HF_ERR_LOCAL, errno,
				  "--vm %s: the working directory has no short name", options->vm);
	int length = snprintf(key, HF_VM_KEY_BYTES, "%s%s%s", here, *here ? "/" : "", path);
	if (length < 0 || length >= HF_VM_KEY_BYTES)
		return bad(err, "--vm %s: the path is too long", options->vm);
	return 0;
}

/* Rows of this command as getopt_long wants them; val is the row's number + 1. */
static void long_options(enum hf_command command, struct option table[static SPECS + 2])
{
	size_t used = 0;
	for (size_t i = 0; i < SPECS; i++) {
		if (specs[i].commands & command)
			table[used++] = (struct option){
			    specs[i].name, specs[i].kind == KIND_FLAG ? no_argument : required_argument, NULL,
			    (int)i + 1};
	}
	table[used++] = (struct option){"help", no_argument, NULL, 'h' + 256};
	table[used] = (struct option){0};
}

static int check_required(enum hf_command command, const struct hf_options *options, struct hf_err *err)
{
	for (size_t i = 0; i < SPECS; i++) {
		const char *const *field = (const void *)((const char *)options + specs[i].offset);
		if ((specs[i].required & command) && !*field)
			return bad(err, "--%s %s is missing; see `hugeferry %s --help`", specs[i].name,
				   specs[i].value, command_names[command]);
	}
	return 0;
}

/* --precopy-only is --precopy without a way out. A placement of 1 is `copy`, as in `placements`. */
static int check_precopy(struct hf_options *options, struct hf_err *err)
{
	if (options->precopy_only && options->postcopy_after_s)
		return bad(err, "--postcopy-after and --precopy-only exclude each other");
	options->precopy |= options->precopy_only;
	if (!options->precopy &&
	    (options->postcopy_after_s || options->downtime_limit_ms || options->max_bandwidth_bytes))
		return bad(err,
			   "--postcopy-after, --downtime-limit and --max-bandwidth are about pre-copy; say "
			   "--precopy or --precopy-only too");
	if (options->precopy && !options->attach)
		return bad(err, "--precopy wants --attach PATH, the attach socket of the source's VMM");
	if (options->precopy && options->placement == 1)
		return bad(err, "--precopy cannot place by copy; leave --placement out");
	return 0;
}

int hf_options_parse(enum hf_command command, int argc, char **argv, struct hf_options *options,
		     struct hf_err *err)
{
	struct option table[SPECS + 2];
	struct hf_options parsed;
	set_defaults(&parsed);
	long_options(command, table);

	opterr = 0;
	optind = 0; // GNU: start afresh
	for (;;) {
		int got = getopt_long(argc, argv, "+:h", table, NULL);
		if (got == -1)
			break;
		if (got == 'h' || got == 'h' + 256) {
			print_help(command);
			return 1;
		}
		if (got == ':')
			return bad(err, "%s wants a value", argv[optind - 1]);
		if (got == '?')
			return bad(err, "'%s' is no option of this command; see `hugeferry %s --help`",
				   argv[optind - 1], command_names[command]);
		int result = set_value(&specs[got - 1], &parsed, optarg, err);
		if (result)
			return result;
	}
	if (command == EXEC && optind == argc)
		return bad(err, "the program to run is missing: hugeferry exec --attach PATH -- PROGRAM ...");
	if (command != EXEC && optind < argc)
		return bad(err, "'%s' is not expected here", argv[optind]);
	parsed.program = argv + optind;
	if (command == HF_COMMAND_CHECK && !parsed.to && parsed.max_page_stall_ms)
		return bad(err, "--max-page-stall is about a link; name it with --to URI");
	if (parsed.qmp && (strncmp(parsed.qmp, "unix:", 5) != 0 || !parsed.qmp[5]))
		return bad(err, "--qmp wants unix:PATH, not '%s'", parsed.qmp);
	if (parsed.chunk_bytes & (parsed.chunk_bytes - 1))
		return bad(err, "--chunk-size must be a power of two");
	int result = check_required(command, &parsed, err);
	if (!result && command == HF_COMMAND_SEND)
		result = check_precopy(&parsed, err);
	if (!result)
		*options = parsed;
	return result;
}
