/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a demo proves. Theory of operation: the RAM files are mapped here read-only, so the judgement does not
 * depend on either VMM or on the programs that moved the pages. hf_guest_verify knows what every byte of the
 * demo's guest must be; with --compare the source's memory, kept stopped, is checked in the same way and then
 * compared with the destination's word by word.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/ramblock.h"
#include "deploy/compare.h"
#include "deploy/demo.h"
#include "deploy/report.h"
#include "kvm/guest.h"

int hf_demo_map(struct hf_demo *demo, enum demo_child vmm, struct hf_err *err)
{
	struct hf_demo_view *view = &demo->view[vmm];
	const char *path = demo->workspace.ram[vmm];
	if (view->memory)
		return 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	void *memory =
	    fd < 0 ? MAP_FAILED : mmap(NULL, demo->options.mem_bytes, PROT_READ, MAP_SHARED, fd, 0);
	int errnum = errno;
	if (fd >= 0)
		close(fd);
	if (memory == MAP_FAILED)
		return hf_err_set(err, HF_ERR_LOCAL, errnum, "cannot map %s: %s", path, strerror(errnum));
	*view = (struct hf_demo_view){.memory = memory, .bytes = demo->options.mem_bytes};
	return 0;
}

void hf_demo_unmap(struct hf_demo *demo)
{
	for (int i = 0; i < 2; i++) {
		if (demo->view[i].memory)
			munmap((void *)demo->view[i].memory, demo->view[i].bytes);
		demo->view[i] = (struct hf_demo_view){0};
	}
}

static void set_number(json_t *object, const char *name, uint64_t value)
{
	json_object_set_new(object, name, json_integer((json_int_t)value));
}

static json_t *guest_object(const struct hf_guest_report *guest)
{
	json_t *object = json_object();
	set_number(object, "bytes_checked", guest->bytes_checked);
	set_number(object, "bytes_wrong", guest->bytes_wrong);
	set_number(object, "pages_wrong", guest->pages_wrong);
	set_number(object, "first_wrong_offset", guest->first_wrong_offset);
	set_number(object, "visits", guest->visits);
	set_number(object, "writes", guest->writes);
	set_number(object, "guest_errors", guest->guest_errors);
	return object;
}

/* Checks one VM's memory and adds it to the report as `name`. */
static int verify_side(struct hf_demo *demo, enum demo_child vmm, const char *name, struct hf_err *err)
{
	const struct hf_demo_view *view = &demo->view[vmm];
	struct hf_guest_report guest = {0};
	int result = hf_guest_verify(view->memory, view->bytes, &guest, err);
	if (result)
		return result;
	json_object_set_new(demo->report, name, guest_object(&guest));
	if (guest.bytes_wrong)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EBADMSG,
		    "%s: %" PRIu64 " bytes in %" PRIu64 " pages are wrong, the first at %#" PRIx64,
		    demo->children[vmm].name, guest.bytes_wrong, guest.pages_wrong, guest.first_wrong_offset);
	if (guest.guest_errors)
		return hf_err_set(err, HF_ERR_LOCAL, EBADMSG,
				  "%s: the guest itself saw %" PRIu64 " wrong words",
				  demo->children[vmm].name, guest.guest_errors);
	if (!guest.visits)
		return hf_err_set(err, HF_ERR_LOCAL, EBADMSG, "%s: the guest has done nothing",
				  demo->children[vmm].name);
	return 0;
}

static int compare_sides(struct hf_demo *demo, struct hf_err *err)
{
	const struct hf_demo_view *source = &demo->view[DEMO_SOURCE_VMM];
	struct hf_comparison found = {0};
	int result = hf_demo_map(demo, DEMO_SOURCE_VMM, err);
	if (!result)
		result = verify_side(demo, DEMO_SOURCE_VMM, "source_guest", err);
	if (!result)
		result = hf_compare(source->memory, demo->view[DEMO_DESTINATION_VMM].memory, source->bytes,
				    &found, err);
	if (result)
		return result;
	json_t *object = json_object();
	set_number(object, "bytes_compared", found.bytes_compared);
	set_number(object, "pages_identical", found.pages_identical);
	set_number(object, "words_written", found.words_written);
	set_number(object, "words_different", found.words_different);
	json_object_set_new(demo->report, "compare", object);
	if (found.words_different)
		return hf_err_set(err, HF_ERR_LOCAL, EBADMSG,
				  "%" PRIu64 " words in %" PRIu64
				  " pages differ from the source's though nobody wrote them, the first at "
				  "%#" PRIx64,
				  found.words_different, found.pages_different, found.first_different_offset);
	return 0;
}

/* Every page that has come must have been counted once. */
static int check_counts(const struct hf_demo *demo, struct hf_err *err)
{
	json_int_t total = json_integer_value(json_object_get(demo->report, "pages_total"));
	json_int_t fetched = json_integer_value(json_object_get(demo->report, "pages_fetched"));
	json_int_t zero = json_integer_value(json_object_get(demo->report, "pages_zero"));
	json_int_t expected = (json_int_t)(demo->options.mem_bytes / demo->options.page_size_bytes);
	if (total != expected || fetched + zero != total)
		return hf_err_set(err, HF_ERR_LOCAL, EBADMSG,
				  "the guest has %lld pages, but %lld were counted: %lld fetched, %lld zero",
				  (long long)expected, (long long)total, (long long)fetched, (long long)zero);
	return 0;
}

int hf_demo_verify(struct hf_demo *demo, struct hf_err *err)
{
	int result = hf_demo_map(demo, DEMO_DESTINATION_VMM, err);
	if (!result)
		result = verify_side(demo, DEMO_DESTINATION_VMM, "guest", err);
	if (!result)
		result = check_counts(demo, err);
	if (!result && demo->options.compare)
		result = compare_sides(demo, err);
	json_object_set_new(demo->report, "verified", json_boolean(!result));
	return result;
}

static uint64_t number(const json_t *object, const char *name)
{
	return (uint64_t)json_integer_value(json_object_get(object, name));
}

void hf_demo_print(const struct hf_demo *demo)
{
	const struct hf_options *options = &demo->options;
	const json_t *guest = json_object_get(demo->report, "guest");
	const json_t *compare = json_object_get(demo->report, "compare");
	char memory[HF_SIZE_TEXT_BYTES];
	printf("\nA VM of %s and %u vCPU%s was moved while it ran.\n\n",
	       hf_size_text(options->mem_bytes, memory), options->vcpus, options->vcpus == 1 ? "" : "s");
	hf_report_print(stdout, demo->report);
	bool verified = json_is_true(json_object_get(demo->report, "verified"));
	printf("  %-15s %s", "verified", verified ? "yes" : "NO");
	if (guest)
		printf(": %" PRIu64 " bytes checked, %" PRIu64 " wrong; %" PRIu64
		       " visits by the guest, %" PRIu64 " of them wrote, %" PRIu64 " errors seen",
		       number(guest, "bytes_checked"), number(guest, "bytes_wrong"), number(guest, "visits"),
		       number(guest, "writes"), number(guest, "guest_errors"));
	putchar('\n');
	if (compare)
		printf("  %-15s %" PRIu64 " pages identical to the source's; %" PRIu64
		       " words written since, %" PRIu64 " different without reason\n",
		       "compared", number(compare, "pages_identical"), number(compare, "words_written"),
		       number(compare, "words_different"));
	fflush(stdout);
}
