/* SPDX-License-Identifier: Apache-2.0 */
/* Seeded numbers for tests (splitmix64): the same on every machine, so that a printed seed repeats a failure.
 */
#ifndef HF_TESTS_RANDOM_H
#define HF_TESTS_RANDOM_H

#include <stdint.h>

struct random {
	uint64_t state;
};

static inline uint64_t random_next(struct random *random)
{
	uint64_t mixed = random->state += 0x9e3779b97f4a7c15ull;
	mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9ull;
	mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebull;
	return mixed ^ (mixed >> 31);
}

/* 0 .. bound - 1 */
static inline uint64_t random_below(struct random *random, uint64_t bound)
{
	return random_next(random) % bound;
}

#endif
