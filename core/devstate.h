/* SPDX-License-Identifier: Apache-2.0 */
/*
 * devstate.h - declarative device state.
 *
 * Purpose: the state of a device is declared once, as a table of fields of a C struct; the same table saves
 * and loads it, so the two cannot go out of step. A description has a version and the oldest version
 * it can still load; what is needed only sometimes is a subsection with a `needed` test. (Seed "VMState".)
 * A blob holds the sections of a whole machine; its length and a checksum guard it.
 *
 * Ownership: descriptions are constant and outlive their use; objects are the caller's; a saved blob is
 * the caller's, free with free().
 * Threads: pure functions; the objects must not change meanwhile.
 * Units: bytes.
 * Errors: 0 or -errno with text that names section and field. A load that fails changes no object.
 */
#ifndef HF_CORE_DEVSTATE_H
#define HF_CORE_DEVSTATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"

#define HF_DEVSTATE_MAX_BYTES (256u << 20) /* a whole blob */

enum hf_devstate_kind {
	HF_DEVSTATE_END = 0, /* ends a table of fields */
	HF_DEVSTATE_U8,
	HF_DEVSTATE_U16,
	HF_DEVSTATE_U32,
	HF_DEVSTATE_U64,
	HF_DEVSTATE_BYTES,  /* raw bytes */
	HF_DEVSTATE_STRUCT, /* nested description */
};

struct hf_devstate_desc;

struct hf_devstate_field {
	const char *name;
	enum hf_devstate_kind kind;
	uint32_t since_version; /* the field exists from this version on; 0: always */
	size_t offset_bytes;	/* in the object */
	size_t stride_bytes;	/* size of one element */
	uint32_t elements;	/* how many; of a variable field: how many there is room for */
	/* Variable: the number in use is the u32 at this offset, a field that stands earlier in the table. */
	bool variable;
	size_t count_offset_bytes;
	const struct hf_devstate_desc *nested;
};

struct hf_devstate_subsection {
	const struct hf_devstate_desc *desc; /* of the same object; NULL ends the table */
	bool (*needed)(const void *object);
};

struct hf_devstate_desc {
	const char *name;
	uint32_t version;	  /* what is saved; from 1 */
	uint32_t minimum_version; /* the oldest that can be loaded */
	size_t object_bytes;
	const struct hf_devstate_field *fields;
	const struct hf_devstate_subsection *subsections; /* may be NULL */
	/*
	 * Hooks, may be NULL. pre_save may bring the object up to date. pre_load and post_load get a copy of
	 * the object, which replaces it only when the whole blob has loaded: set defaults and check values
	 * there, act elsewhere. post_load runs after all subsections; version is the one that was saved.
	 */
	int (*pre_save)(void *object, struct hf_err *err);
	int (*pre_load)(void *object, struct hf_err *err);
	int (*post_load)(void *object, uint32_t version, struct hf_err *err);
};

/* One registered device. */
struct hf_devstate_section {
	const struct hf_devstate_desc *desc;
	uint32_t instance;
	void *object;
};

/* ---- fields ---- */

/* What is none of these must be 64 bits wide; a description where it is not is refused. */
#define HF_DEVSTATE_SCALAR_KIND(type, member)                                                                \
	_Generic(((type *)0)->member, uint8_t                                                                \
		 : HF_DEVSTATE_U8, uint16_t                                                                  \
		 : HF_DEVSTATE_U16, uint32_t                                                                 \
		 : HF_DEVSTATE_U32, default                                                                  \
		 : HF_DEVSTATE_U64)
#define HF_DEVSTATE_ELEMENT_KIND(type, member)                                                               \
	_Generic(((type *)0)->member[0], uint8_t                                                             \
		 : HF_DEVSTATE_BYTES, uint16_t                                                               \
		 : HF_DEVSTATE_U16, uint32_t                                                                 \
		 : HF_DEVSTATE_U32, default                                                                  \
		 : HF_DEVSTATE_U64)
#define HF_DEVSTATE_ELEMENTS(type, member) (sizeof(((type *)0)->member) / sizeof(((type *)0)->member[0]))

/* An integer member, since a version. */
#define HF_DEVSTATE_FIELD_SINCE(type, member, version)                                                       \
	{                                                                                                    \
		.name = #member, .kind = HF_DEVSTATE_SCALAR_KIND(type, member),                              \
		.offset_bytes = offsetof(type, member), .stride_bytes = sizeof(((type *)0)->member),         \
		.elements = 1, .since_version = (version)                                                    \
	}
#define HF_DEVSTATE_FIELD(type, member) HF_DEVSTATE_FIELD_SINCE(type, member, 0)
/* An array of integers (of bytes: a buffer), all of it. */
#define HF_DEVSTATE_ARRAY(type, member)                                                                      \
	{                                                                                                    \
		.name = #member, .kind = HF_DEVSTATE_ELEMENT_KIND(type, member),                             \
		.offset_bytes = offsetof(type, member), .stride_bytes = sizeof(((type *)0)->member[0]),      \
		.elements = HF_DEVSTATE_ELEMENTS(type, member)                                               \
	}
/* The first `count` elements, a uint32_t member listed before. */
#define HF_DEVSTATE_VARRAY(type, member, count)                                                              \
	{                                                                                                    \
		.name = #member, .kind = HF_DEVSTATE_ELEMENT_KIND(type, member),                             \
		.offset_bytes = offsetof(type, member), .stride_bytes = sizeof(((type *)0)->member[0]),      \
		.elements = HF_DEVSTATE_ELEMENTS(type, member), .variable = true,                            \
		.count_offset_bytes = offsetof(type, count)                                                  \
	}
/* A struct, an array of structs, the first `count` of an array of structs. */
#define HF_DEVSTATE_NESTED(type, member, description)                                                        \
	{                                                                                                    \
		.name = #member, .kind = HF_DEVSTATE_STRUCT, .offset_bytes = offsetof(type, member),         \
		.stride_bytes = sizeof(((type *)0)->member), .elements = 1, .nested = (description)          \
	}
#define HF_DEVSTATE_NESTED_ARRAY(type, member, description)                                                  \
	{                                                                                                    \
		.name = #member, .kind = HF_DEVSTATE_STRUCT, .offset_bytes = offsetof(type, member),         \
		.stride_bytes = sizeof(((type *)0)->member[0]),                                              \
		.elements = HF_DEVSTATE_ELEMENTS(type, member), .nested = (description)                      \
	}
#define HF_DEVSTATE_NESTED_VARRAY(type, member, count, description)                                          \
	{                                                                                                    \
		.name = #member, .kind = HF_DEVSTATE_STRUCT, .offset_bytes = offsetof(type, member),         \
		.stride_bytes = sizeof(((type *)0)->member[0]),                                              \
		.elements = HF_DEVSTATE_ELEMENTS(type, member), .variable = true,                            \
		.count_offset_bytes = offsetof(type, count), .nested = (description)                         \
	}
#define HF_DEVSTATE_FIELDS_END                                                                               \
	{                                                                                                    \
		.kind = HF_DEVSTATE_END                                                                      \
	}

/* ---- whole machine ---- */

/* Saves every section, in order. -EINVAL: a description that contradicts itself, or a count beyond its room.
 */
int hf_devstate_save(const struct hf_devstate_section *sections, uint32_t count, void **data,
		     size_t *length_bytes, struct hf_err *err);
/*
 * Loads a blob. Every registered section must be there exactly once and no other. -EPROTO: damaged, unknown
 * or of another version.
 */
int hf_devstate_load(const struct hf_devstate_section *sections, uint32_t count, const void *data,
		     size_t length_bytes, struct hf_err *err);

#endif
