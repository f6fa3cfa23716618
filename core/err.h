/* SPDX-License-Identifier: Apache-2.0 */
/*
 * err.h - the one error rule.
 *
 * Purpose: functions return 0 or -errno. Where the caller must explain the failure to an operator or
 * choose what to do next, the last parameter is a `struct hf_err *` that also receives a class and a
 * line of text that says what happened, to which VM, block or page, and what to do about it.
 *
 * Ownership: the caller owns the struct; it holds no pointers and needs no destructor.
 * Threads: a struct belongs to one thread at a time.
 * Units: none.
 * Errors: on success a function leaves *err untouched. A NULL err is allowed everywhere.
 */
#ifndef HF_CORE_ERR_H
#define HF_CORE_ERR_H

#include <stdarg.h>

enum hf_err_class {
	HF_ERR_NONE = 0,
	HF_ERR_LINK,	  /* the link failed; the same work may succeed after a reconnect */
	HF_ERR_PEER,	  /* the peer broke the protocol or refused; do not retry as is */
	HF_ERR_LOCAL,	  /* something on this host: memory, rights, configuration */
	HF_ERR_CANCELLED, /* an operator asked for the end */
};

#define HF_ERR_TEXT_BYTES 512

struct hf_err {
	enum hf_err_class class;
	int errnum; /* positive errno */
	char text[HF_ERR_TEXT_BYTES];
};

#define HF_ERR_INIT ((struct hf_err){.class = HF_ERR_NONE})

/* Fills *err (when not NULL) and returns -errnum, so that callers write `return hf_err_set(...)`. */
int hf_err_set(struct hf_err *err, enum hf_err_class class, int errnum, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
int hf_err_vset(struct hf_err *err, enum hf_err_class class, int errnum, const char *format, va_list args)
    __attribute__((format(printf, 4, 0)));

#ifdef __clang_analyzer__
/* Never compiled: tells the analyzer, which sees no other file, that hf_err_set returns less than 0. */
static inline int hf_err_negative(int result)
{
	if (result >= 0)
		__builtin_unreachable();
	return result;
}
#define hf_err_set(...) hf_err_negative((hf_err_set)(__VA_ARGS__))
#endif

/* Puts "prefix: " before the text that is already there; returns -err->errnum. */
int hf_err_prefix(struct hf_err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* "none", "link", "peer", "local", "cancelled". */
const char *hf_err_class_name(enum hf_err_class class);

#endif
