/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Target: what an operator types: command lines of every subcommand and of the reference VMM, URIs, sizes and
 * numbers, paths of sockets. The first byte chooses which; arguments of a command line end at NUL bytes.
 *
 * What is accepted is within its limits, and a URI taken apart makes the same URI again; what is refused says
 * why.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/wire.h"
#include "deploy/options.h"
#include "hugemem/attach_wire.h"
#include "kvm/guest/layout.h"
#include "kvm/qmp_codec.h"
#include "kvm/vmm/options.h"
#include "tests/fuzz/fuzz.h"
#include "transport-tcp/internal.h"

#define ARGUMENTS_MAX 64

/* Help is printed; nobody reads it here. */
static void silence_stdout(void)
{
	static bool silent;
	if (!silent)
		fuzz_check(freopen("/dev/null", "w", stdout));
	silent = true;
}

static char *copy_text(const uint8_t *data, size_t bytes)
{
	char *text = malloc(bytes + 1);
	fuzz_check(text);
	memcpy(text, data, bytes);
	text[bytes] = '\0';
	return text;
}

static void check_refusal(const struct hf_err *err)
{
	fuzz_check(err->class != HF_ERR_NONE && err->text[0]);
}

/* ---- command lines ---------------------------------------------------------------------------- */

/* argv[0] is the program; `lines` belongs to the caller and holds the arguments. */
static int split_arguments(char *line, size_t bytes, char **argv)
{
	static char program[] = "hugeferry";
	int argc = 0;
	argv[argc++] = program;
	for (char *at = line; at < line + bytes && argc < ARGUMENTS_MAX; at += strlen(at) + 1)
		argv[argc++] = at;
	argv[argc] = NULL;
	return argc;
}

static void check_options(enum hf_command command, const struct hf_options *options)
{
	fuzz_check(options->channels >= 1 && options->channels <= HF_WIRE_CHANNELS_MAX);
	fuzz_check(options->chunk_bytes == 0 || (options->chunk_bytes >= HF_WIRE_CHUNK_MIN_BYTES &&
						 options->chunk_bytes <= HF_WIRE_CHUNK_MAX_BYTES));
	fuzz_check((options->chunk_bytes & (options->chunk_bytes - 1)) == 0);
	fuzz_check(options->placement <= 2 && options->transport <= 1 && options->pattern <= 2);
	fuzz_check(options->write_percent <= 100 && options->fill_percent >= 1 &&
		   options->fill_percent <= 100);
	fuzz_check(options->vcpus >= 1 && options->vcpus <= 64);
	fuzz_check(command != HF_COMMAND_SEND || (options->vm && options->to));
	fuzz_check(command != HF_COMMAND_RECEIVE || (options->vm && options->listen && options->attach));
	fuzz_check(!options->json || options->json[0]);
}

static void parse_command(enum hf_command command, int argc, char **argv)
{
	struct hf_options options, before;
	struct hf_err err = HF_ERR_INIT;
	memset(&options, 0x5a, sizeof(options));
	memcpy(&before, &options, sizeof(options));
	int result = hf_options_parse(command, argc, argv, &options, &err);
	if (result == 0)
		check_options(command, &options);
	else
		fuzz_check(fuzz_same(&before, &options, sizeof(options)));
	if (result < 0)
		check_refusal(&err);
}

static void parse_vmm(int argc, char **argv)
{
	struct vmm_options options;
	struct hf_err err = HF_ERR_INIT;
	optind = 0; // GNU: start afresh
	if (vmm_options_parse(&options, argc, argv, &err)) {
		check_refusal(&err);
		return;
	}
	if (options.help)
		return;
	const struct hf_guest_config *guest = &options.guest;
	fuzz_check(guest->memory_bytes && guest->memory_bytes <= HF_GUEST_MEMORY_MAX);
	fuzz_check(guest->memory_bytes % guest->page_size_bytes == 0);
	fuzz_check(guest->vcpus >= 1 && guest->vcpus <= HF_GUEST_VCPUS_MAX);
	fuzz_check(guest->write_percent <= 100 && guest->fill_percent <= 100);
	fuzz_check(guest->pace_steps_per_s <= HF_GUEST_PACE_MAX);
	fuzz_check(options.ram_file[0] == '/' && options.qmp_path[0] == '/');
	fuzz_check(strlen(options.qmp_path) < sizeof(((struct sockaddr_un *)0)->sun_path));
}

static void parse_line(uint8_t choice, const uint8_t *data, size_t bytes)
{
	static const enum hf_command commands[] = {HF_COMMAND_SEND, HF_COMMAND_RECEIVE, HF_COMMAND_CHECK,
						   HF_COMMAND_DEMO};
	char *argv[ARGUMENTS_MAX + 1];
	char *line = copy_text(data, bytes);
	int argc = split_arguments(line, bytes, argv);
	if (choice < sizeof(commands) / sizeof(commands[0]))
		parse_command(commands[choice], argc, argv);
	else
		parse_vmm(argc, argv);
	free(line);
}

/* ---- single values ---------------------------------------------------------------------------- */

static void parse_uri(const char *uri)
{
	struct tcp_uri parsed;
	struct hf_err err = HF_ERR_INIT;
	char again[sizeof(parsed.address.host) + sizeof(parsed.path) + 32];
	fuzz_check((hf_tcp_check_uri(uri, NULL) == 0) == (tcp_uri_parse(uri, &parsed, &err) == 0));
	if (err.class != HF_ERR_NONE) {
		check_refusal(&err);
		return;
	}
	fuzz_check(hf_tcp_handles(uri));
	bool brackets = !parsed.is_unix && uri[sizeof("tcp:") - 1] == '[';
	if (parsed.is_unix)
		snprintf(again, sizeof(again), "unix:%s", parsed.path);
	else
		snprintf(again, sizeof(again), brackets ? "tcp:[%s]:%s" : "tcp:%s:%s", parsed.address.host,
			 parsed.address.port);
	fuzz_check(strcmp(again, uri) == 0);
	if (!parsed.is_unix) {
		fuzz_check(atoi(parsed.address.port) <= 65535);
		return;
	}
	struct tcp_address address;
	char name[TCP_NAME_BYTES];
	tcp_unix_address(&parsed, &address);
	tcp_address_name(&address, name);
	fuzz_check(strcmp(name, uri) == 0);
}

/* A size by another way: strtoull and 128 bits. */
static bool size_is(const char *text, uint64_t *bytes)
{
	char *end;
	size_t digits = strspn(text, "0123456789");
	if (digits == 0 || digits > 23)
		return false;
	unsigned __int128 value = 0;
	for (size_t i = 0; i < digits; i++)
		value = value * 10 + (unsigned)(text[i] - '0');
	end = (char *)text + digits;
	const char *units = "KMGT";
	const char *unit = *end ? strchr(units, *end) : NULL;
	if (*end && (!unit || end[1]))
		return false;
	if (unit)
		value <<= 10 * (unit - units + 1);
	*bytes = (uint64_t)value;
	return value <= UINT64_MAX;
}

static void parse_size(const char *text)
{
	uint64_t bytes = 0, expected = 0, count = 0;
	int result = hf_parse_size(text, &bytes);
	fuzz_check((result == 0) == (size_is(text, &expected) && strlen(text) < 24));
	fuzz_check(result != 0 || bytes == expected);
	fuzz_check(hf_parse_count(text, 1000, &count) != 0 || count <= 1000);
}

static void parse_path(const char *path)
{
	struct sockaddr_un address;
	struct hf_err err = HF_ERR_INIT;
	if (hf_qmp_address(path, &address, &err))
		check_refusal(&err);
	else
		fuzz_check(strlen(address.sun_path) >= 1 &&
			   address.sun_path[sizeof(address.sun_path) - 1] == '\0');
	err = HF_ERR_INIT;
	if (hf_attach_wire_address(&address, path, &err))
		check_refusal(&err);
	else
		fuzz_check(strcmp(address.sun_path, path) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static void (*const values[])(const char *) = {parse_uri, parse_size, parse_path};
	enum { LINES = 5, VALUES = sizeof(values) / sizeof(values[0]) };
	if (bytes == 0)
		return 0;
	silence_stdout();
	uint8_t choice = data[0] % (LINES + VALUES);
	if (choice < LINES) {
		parse_line(choice, data + 1, bytes - 1);
		return 0;
	}
	char *text = copy_text(data + 1, bytes - 1);
	values[choice - LINES](text);
	free(text);
	return 0;
}
