/* SPDX-License-Identifier: Apache-2.0 */
/* What the twins of a directory hold, as a file beside them (spec/tiering.md, "Cache of blocks"):
 * appended to whenever a block comes or goes, never synced, and written anew when much of it is out
 * of date. What a crash tears off or leaves behind is found out when it is read: pages that it does
 * not tell of are punched out, and blocks that are not there fail their checksum. Not thread-safe.
 */
#ifndef TIERING_TWINLOG_INT_H
#define TIERING_TWINLOG_INT_H

#include "cas/io.h"

#define TIER_TWINLOG_NAME "blocks"
#define TIER_TWINLOG_NEW_NAME "blocks.new" /* while it is written anew */
#define TIER_TWINLOG_MAGIC "lam-blks"
#define TIER_TWINLOG_HEAD_BYTES 16
#define TIER_TWINLOG_RECORD_BYTES 32
/* Records read of a file: 64 million, 2 GiB. */
#define TIER_TWINLOG_RECORDS_MAX (UINT64_C(1) << 26)

enum tier_twinlog_kind { TIER_TWINLOG_CAME = 1, TIER_TWINLOG_WENT = 2 };
struct tier_twinlog_record {
        enum tier_twinlog_kind kind;
        uint64_t pack_id, offset;
        uint32_t bytes;
};

void tier_twinlog_encode(const struct tier_twinlog_record *r,
                         uint8_t out[TIER_TWINLOG_RECORD_BYTES]);
/* False: not a record. */
bool tier_twinlog_decode(const uint8_t in[TIER_TWINLOG_RECORD_BYTES],
                         struct tier_twinlog_record *out);

struct tier_twinlog;
/* Reads the log of the directory and tells of its records in order; it ends at the first that is
 * none, and begins anew where there is none at all. Then it may be appended to. dirfd is borrowed
 * until close. */
int tier_twinlog_open(const struct cas_io *io, int dirfd,
                      void (*fn)(void *arg, const struct tier_twinlog_record *r), void *arg,
                      struct tier_twinlog **out, struct cas_err *err) CAS_MUST_CHECK;
void tier_twinlog_close(struct tier_twinlog *l);
/* After a failure nothing more is appended until it was written anew. */
void tier_twinlog_append(struct tier_twinlog *l, const struct tier_twinlog_record *r);
/* Whether it is time to write it anew, `live` blocks being there. */
bool tier_twinlog_is_long(const struct tier_twinlog *l, uint64_t live);
/* Writes it anew with the records that next() gives until it returns false. */
int tier_twinlog_renew(struct tier_twinlog *l,
                       bool (*next)(void *arg, struct tier_twinlog_record *out), void *arg,
                       struct cas_err *err) CAS_MUST_CHECK;

#endif
