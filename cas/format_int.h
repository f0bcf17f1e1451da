/* SPDX-License-Identifier: Apache-2.0 */
/* The file STORE/format: which version and features a store has (spec/store.md).
 * It is written last when a store is made: a directory without it is no store. */
#ifndef CAS_FORMAT_INT_H
#define CAS_FORMAT_INT_H

#include "cas/io.h"

#define CAS_FORMAT_VERSION 3
#define CAS_FORMAT_PATH "format"
/* Bits that this program knows. */
#define CAS_FORMAT_COMPAT_KNOWN 0
#define CAS_FORMAT_RO_COMPAT_KNOWN 0
#define CAS_FORMAT_INCOMPAT_KNOWN 0

struct cas_format {
        unsigned version;
        uint64_t compat;    /* unknown bits do not matter */
        uint64_t ro_compat; /* unknown bits: may be read, not written */
        uint64_t incompat;  /* unknown bits: may not be opened */
        char id[33];        /* of the store: 32 hex digits */
};

/* Errors: NOTFOUND (no such file), CORRUPT. */
int cas_format_read(const struct cas_io *io, int dirfd, struct cas_format *out,
                    struct cas_err *err) CAS_MUST_CHECK;
/* Durable on return. */
int cas_format_write(const struct cas_io *io, int dirfd, const struct cas_format *format,
                     struct cas_err *err) CAS_MUST_CHECK;
/* Whether the file is, byte for byte, what was written for a store of that id; lines may follow
 * that a later program added. Errors: NOTFOUND, CORRUPT. */
int cas_format_verify(const struct cas_io *io, int dirfd, const char *id,
                      struct cas_err *err) CAS_MUST_CHECK;
/* Whether this program may open the store. Errors: UNSUPPORTED, with what to do. */
int cas_format_check(const struct cas_format *format, struct cas_err *err) CAS_MUST_CHECK;
/* A new random store id. */
int cas_format_new_id(char id[33], struct cas_err *err) CAS_MUST_CHECK;

#endif
