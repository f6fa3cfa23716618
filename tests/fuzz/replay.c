/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a target on files, for compilers without libFuzzer: replay PATH... A directory stands for the files in
 * it. Each input lies in memory of exactly its size, so that a sanitizer sees a read past its end.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/fuzz/fuzz.h"

static uint32_t inputs;

static int refuse(const char *path)
{
	fprintf(stderr, "%s: %s\n", path, strerror(errno));
	return 1;
}

static int run_file(const char *path, size_t bytes)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data = malloc(bytes ? bytes : 1);
	if (!file || !data || fread(data, 1, bytes, file) != bytes) {
		free(data);
		if (file)
			fclose(file);
		return refuse(path);
	}
	fclose(file);
	uint8_t *exact = bytes ? data : data + 1;
	LLVMFuzzerTestOneInput(exact, bytes);
	free(data);
	inputs++;
	return 0;
}

static int run_path(const char *path);

static int run_directory(const char *path)
{
	struct dirent **entries;
	int count = scandir(path, &entries, NULL, alphasort);
	int failed = count < 0 ? refuse(path) : 0;
	for (int i = 0; i < count; i++) {
		char inside[4096];
		snprintf(inside, sizeof(inside), "%s/%s", path, entries[i]->d_name);
		if (entries[i]->d_name[0] != '.')
			failed |= run_path(inside);
		free(entries[i]);
	}
	if (count >= 0)
		free(entries);
	return failed;
}

static int run_path(const char *path)
{
	struct stat status;
	if (stat(path, &status))
		return refuse(path);
	if (S_ISDIR(status.st_mode))
		return run_directory(path);
	return run_file(path, (size_t)status.st_size);
}

int main(int argc, char **argv)
{
	int failed = 0;
	for (int i = 1; i < argc; i++)
		failed |= run_path(argv[i]);
	fprintf(stderr, "%u inputs\n", inputs);
	return failed || inputs == 0;
}
