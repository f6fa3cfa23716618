/* SPDX-License-Identifier: Apache-2.0 */
/* Loaded before a test program (LD_PRELOAD): of its cases only those run whose name HF_ONLY_CASE matches. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

__attribute__((constructor)) static void choose_case(void)
{
	cmocka_set_test_filter(getenv("HF_ONLY_CASE"));
}
