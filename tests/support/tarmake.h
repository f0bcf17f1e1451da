/* SPDX-License-Identifier: Apache-2.0 */
/* Tars made block by block, right or wrong in every field. */
#ifndef TESTS_SUPPORT_TARMAKE_H
#define TESTS_SUPPORT_TARMAKE_H

#include "cas/buf.h"

struct tarmake {
        const char *name, *link;
        char type;     /* '0' unless set */
        uint64_t size; /* as the header says it */
        uint32_t mode, uid, gid;
        uint64_t mtime;
        const char *magic; /* 8 bytes; "ustar\0" "00" unless set */
        const char *prefix;
        uint32_t major, minor;
        /* Overwrites bytes of the block before it gets its checksum. */
        size_t patch_at, patch_bytes;
        const void *patch;
};

/* Appends the header block. */
void tarmake_header(struct cas_buf *out, const struct tarmake *h);
/* Appends data with its padding. */
void tarmake_data(struct cas_buf *out, const void *data, size_t len);
/* A regular file with its content. */
void tarmake_file(struct cas_buf *out, const char *name, const char *content);
/* A header of this type ('x', 'g', 'L', 'K', …) with its data. */
void tarmake_extension(struct cas_buf *out, char type, const void *data, size_t len);
/* Appends a PAX record to text that is to become such a header's data. */
void tarmake_record(struct cas_buf *text, const char *key, const void *value, size_t len);
/* An 'x' header of one record. */
void tarmake_pax(struct cas_buf *out, const char *key, const char *value);
/* Two zero blocks. */
void tarmake_end(struct cas_buf *out);
/* Sets the checksum of a block. */
void tarmake_checksum(uint8_t block[512]);

#endif
