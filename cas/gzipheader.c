/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/gzipheader.h"

#include <isa-l/crc.h>

#include "cas/buf.h"

enum flag { FHCRC = 2, FEXTRA = 4, FNAME = 8, FCOMMENT = 16 };
#define FLAGS_RESERVED 0xe0
#define METHOD_DEFLATE 8

/* Skips a NUL-terminated field; failed when its end is not there. */
static void skip_text(struct cas_cursor *c)
{
        const uint8_t *nul = memchr(c->at, '\0', cas_cursor_left(c));
        if (nul)
                c->at = nul + 1;
        else
                c->failed = true;
}

int cas_gzip_header_find_end(const uint8_t *data, size_t len, size_t *header_bytes,
                             struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(data, len);
        const uint8_t *fixed = cas_cursor_take(&c, CAS_GZIP_HEADER_BYTES_MIN);
        *header_bytes = 0;
        if (!fixed)
                return 0;
        if (fixed[0] != 0x1f || fixed[1] != 0x8b || fixed[2] != METHOD_DEFLATE ||
            fixed[3] & FLAGS_RESERVED)
                return cas_fail(err, CAS_E_CORRUPT, "gzip: invalid header");
        if (fixed[3] & FEXTRA)
                (void)cas_cursor_take(&c, cas_cursor_le16(&c));
        if (!c.failed && fixed[3] & FNAME)
                skip_text(&c);
        if (!c.failed && fixed[3] & FCOMMENT)
                skip_text(&c);
        if (!c.failed && fixed[3] & FHCRC) {
                uint32_t crc = crc32_gzip_refl(0, data, (uint64_t)(c.at - data)) & 0xffff;
                if (cas_cursor_le16(&c) != crc && !c.failed)
                        return cas_fail(err, CAS_E_CORRUPT, "gzip: wrong header checksum");
        }
        size_t known = c.failed ? len : (size_t)(c.at - data);
        if (known > CAS_GZIP_HEADER_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "gzip: a header of more than %d bytes",
                                CAS_GZIP_HEADER_BYTES_MAX);
        *header_bytes = c.failed ? 0 : known;
        return 0;
}
