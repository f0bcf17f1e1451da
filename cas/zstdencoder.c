/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/zstdencoder_int.h"

#include <zstd.h>

/* --long of the command line. */
#define LONG_WINDOW_LOG 27

struct cas_zstd_encoder {
        ZSTD_CCtx *ctx;
};

bool cas_zstd_can_replay(void)
{
        return ZSTD_versionNumber() == CAS_ZSTD_REPLAY_VERSION;
}

bool cas_zstd_params_valid(const struct cas_zstd_params *p)
{
        return p->level >= CAS_ZSTD_LEVEL_MIN && p->level <= CAS_ZSTD_LEVEL_MAX && p->level != 0;
}

static bool set(ZSTD_CCtx *ctx, ZSTD_cParameter key, int value)
{
        return !ZSTD_isError(ZSTD_CCtx_setParameter(ctx, key, value));
}

struct cas_zstd_encoder *cas_zstd_encoder_new(const struct cas_zstd_params *p, uint64_t plain_bytes)
{
        cas_cleanup_zstd_encoder struct cas_zstd_encoder *e = cas_xcalloc(1, sizeof(*e));
        e->ctx = ZSTD_createCCtx();
        if (!e->ctx || !set(e->ctx, ZSTD_c_compressionLevel, p->level) ||
            !set(e->ctx, ZSTD_c_checksumFlag, p->has_checksum) ||
            !set(e->ctx, ZSTD_c_contentSizeFlag, p->has_size) ||
            (p->by_jobs && !set(e->ctx, ZSTD_c_nbWorkers, 1)) ||
            (p->is_long && (!set(e->ctx, ZSTD_c_enableLongDistanceMatching, 1) ||
                            !set(e->ctx, ZSTD_c_windowLog, LONG_WINDOW_LOG))) ||
            (p->has_size && ZSTD_isError(ZSTD_CCtx_setPledgedSrcSize(e->ctx, plain_bytes))))
                return NULL;
        return cas_steal(&e);
}

void cas_zstd_encoder_free(struct cas_zstd_encoder *e)
{
        if (!e)
                return;
        (void)ZSTD_freeCCtx(e->ctx);
        free(e);
}

int cas_zstd_encoder_write(struct cas_zstd_encoder *e, const void *data, size_t len, bool last,
                           struct cas_buf *out, struct cas_err *err)
{
        ZSTD_inBuffer in = {.src = data, .size = len};
        bool ending = false; /* never with data: libzstd would take that for the whole content */
        for (;;) {
                size_t room = ZSTD_CStreamOutSize();
                cas_buf_reserve(out, room);
                ZSTD_outBuffer to = {.dst = out->data + out->len_bytes, .size = room};
                size_t left = ZSTD_compressStream2(e->ctx, &to, &in,
                                                   ending ? ZSTD_e_end : ZSTD_e_continue);
                if (ZSTD_isError(left))
                        return cas_fail(err, CAS_E_CORRUPT, "zstd: %s", ZSTD_getErrorName(left));
                out->len_bytes += to.pos;
                if (ending ? left == 0 : in.pos == in.size && !last)
                        return 0;
                ending = last && in.pos == in.size;
        }
}
