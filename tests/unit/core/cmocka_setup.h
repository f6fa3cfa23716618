/* SPDX-License-Identifier: Apache-2.0 */
/* cmocka.h wants these before it. */
#ifndef HF_TESTS_CMOCKA_SETUP_H
#define HF_TESTS_CMOCKA_SETUP_H

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#endif
