/* SPDX-License-Identifier: Apache-2.0 */
/* zstd frames made again by libzstd. What it makes depends on its version, so one version is the
 * format: another one cannot replay (cas_zstd_can_replay). Private to cas. */
#ifndef CAS_ZSTDENCODER_INT_H
#define CAS_ZSTDENCODER_INT_H

#include "cas/buf.h"

/* ZSTD_versionNumber() of the library whose output recipes rely on; linked statically. */
#define CAS_ZSTD_REPLAY_VERSION 10504
bool cas_zstd_can_replay(void);

/* Everything that the bytes of a frame depend on beside its content. Bounds keep an encoder below
 * CAS_ZSTD_ENCODER_BYTES_MAX. */
#define CAS_ZSTD_LEVEL_MIN (-7)
#define CAS_ZSTD_LEVEL_MAX 19
#define CAS_ZSTD_ENCODER_BYTES_MAX (384 * UINT64_C(1048576))
struct cas_zstd_params {
        int8_t level; /* CAS_ZSTD_LEVEL_MIN to CAS_ZSTD_LEVEL_MAX, not 0 */
        bool has_checksum;
        bool has_size; /* the frame tells its content's length */
        bool by_jobs; /* made by worker threads: cut into jobs; the number of threads is the same */
        bool is_long; /* --long: long distance matching, window of 128 MiB */
};
bool cas_zstd_params_valid(const struct cas_zstd_params *p);

struct cas_zstd_encoder;
/* plain_bytes: of the frame's content; told to libzstd when has_size. NULL: no memory. */
struct cas_zstd_encoder *cas_zstd_encoder_new(const struct cas_zstd_params *params,
                                              uint64_t plain_bytes);
void cas_zstd_encoder_free(struct cas_zstd_encoder *e);
CAS_DEFINE_CLEANUP(cas_cleanup_zstd_encoder_, struct cas_zstd_encoder *, cas_zstd_encoder_free);
#define cas_cleanup_zstd_encoder __attribute__((cleanup(cas_cleanup_zstd_encoder_)))
/* Appends what is ready. Errors: CORRUPT (libzstd refuses: more or less than plain_bytes). */
int cas_zstd_encoder_write(struct cas_zstd_encoder *e, const void *data, size_t len, bool last,
                           struct cas_buf *out, struct cas_err *err) CAS_MUST_CHECK;

#endif
