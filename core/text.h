/* SPDX-License-Identifier: Apache-2.0 */
/*
 * text.h - text that came from outside.
 *
 * Purpose: names and messages of a peer end up in logs and on terminals. A name must be valid UTF-8 without
 * control characters, or it is refused; a message is made so.
 *
 * Ownership: the caller's buffers.
 * Threads: pure functions.
 * Units: bytes.
 * Errors: none.
 */
#ifndef HF_CORE_TEXT_H
#define HF_CORE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Length in bytes of the printable character at the front of `text`, 0 if there is none: not UTF-8 (overlong
 * forms, surrogates and values above U+10FFFF are not), cut short, or a control character (C0, DEL, C1, line
 * and paragraph separator, bidirectional embedding and override).
 */
size_t hf_text_printable_char(const uint8_t *text, size_t bytes);

/* Is all of it printable? Yes when empty. */
bool hf_text_is_printable(const uint8_t *text, size_t bytes);

/*
 * Copies with '?' for each byte that is no part of a printable character. Cuts between characters where `out`
 * is too small; always terminates. Returns the length without the terminator.
 */
size_t hf_text_make_printable(const uint8_t *text, size_t bytes, char *out, size_t out_bytes);

#endif
