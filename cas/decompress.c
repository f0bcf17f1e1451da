/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/decompress.h"

#include <inttypes.h>
#include <isa-l/igzip_lib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "cas/buf.h"
#include "cas/gzipheader.h"
#include "cas/limits.h"

#define INPUT_BYTES (256 * 1024)
#define KEPT_BYTES 8
#define MAGIC_BYTES_MAX 10

struct cas_decompress {
        cas_source_fn source;
        void *arg;
        enum cas_compression kind;
        uint8_t *input; /* INPUT_BYTES; what lies from input_at to input_len is not consumed */
        size_t input_at, input_len;
        bool input_ended;
        uint64_t fetched_bytes;     /* given by the source */
        uint64_t produced_bytes;    /* given to the caller */
        struct inflate_state *gzip; /* kind GZIP */
        ZSTD_DStream *zstd;         /* kind ZSTD */
        bool in_frame;              /* a gzip member or a zstd frame has begun and not ended */
        bool after_frame;           /* a gzip member was there before */
        bool in_padding;            /* zero bytes after the last gzip member */
};

static size_t input_left(const struct cas_decompress *d)
{
        return d->input_len - d->input_at;
}

/* Adds stored bytes behind those that are not consumed; sets input_ended at the end. The last
 * few consumed ones stay in front: inflating may give them back. */
static int fetch(struct cas_decompress *d, struct cas_err *err)
{
        if (d->input_at > KEPT_BYTES) {
                size_t from = d->input_at - KEPT_BYTES;
                memmove(d->input, d->input + from, d->input_len - from);
                d->input_len -= from;
                d->input_at = KEPT_BYTES;
        }
        size_t got = 0;
        if (d->source(d->arg, d->input + d->input_len, INPUT_BYTES - d->input_len, &got, err) < 0)
                return -(int)err->code;
        cas_assert(got <= INPUT_BYTES - d->input_len);
        d->input_len += got;
        d->fetched_bytes += got;
        d->input_ended = got == 0;
        return 0;
}

/* ---- detection ---- */

static bool starts_with(const struct cas_decompress *d, const char *magic, size_t len)
{
        return input_left(d) >= len && memcmp(d->input + d->input_at, magic, len) == 0;
}

static bool starts_zstd(const struct cas_decompress *d)
{
        if (input_left(d) < 4)
                return false;
        uint32_t magic = cas_get_le32(d->input + d->input_at);
        return magic == ZSTD_MAGICNUMBER ||
               (magic & ZSTD_MAGIC_SKIPPABLE_MASK) == ZSTD_MAGIC_SKIPPABLE_START;
}

static int detect(struct cas_decompress *d, struct cas_err *err)
{
        while (input_left(d) < MAGIC_BYTES_MAX && !d->input_ended)
                if (fetch(d, err) < 0)
                        return -(int)err->code;
        if (starts_with(d, "\x1f\x8b", 2))
                d->kind = CAS_COMPRESSION_GZIP;
        else if (starts_zstd(d))
                d->kind = CAS_COMPRESSION_ZSTD;
        else if (starts_with(d,
                             "\xfd"
                             "7zXZ\0",
                             6))
                return cas_fail(err, CAS_E_UNSUPPORTED, "a layer compressed by xz");
        else if (starts_with(d, "BZh", 3) && input_left(d) >= 10 &&
                 memcmp(d->input + d->input_at + 4, "1AY&SY", 6) == 0)
                return cas_fail(err, CAS_E_UNSUPPORTED, "a layer compressed by bzip2");
        return 0;
}

int cas_decompress_open(cas_source_fn source, void *arg, struct cas_decompress **out,
                        struct cas_err *err)
{
        cas_cleanup_decompress struct cas_decompress *d = cas_xcalloc(1, sizeof(*d));
        d->source = source;
        d->arg = arg;
        d->input = cas_xmalloc(INPUT_BYTES);
        if (detect(d, err) < 0)
                return -(int)err->code;
        if (d->kind == CAS_COMPRESSION_GZIP) {
                d->gzip = cas_xcalloc(1, sizeof(*d->gzip));
                isal_inflate_init(d->gzip);
        } else if (d->kind == CAS_COMPRESSION_ZSTD) {
                d->zstd = ZSTD_createDStream();
                if (!d->zstd || ZSTD_isError(ZSTD_DCtx_setParameter(d->zstd, ZSTD_d_windowLogMax,
                                                                    CAS_ZSTD_WINDOW_LOG_MAX)))
                        return cas_fail(err, CAS_E_NOMEM, "zstd decoder");
        }
        *out = cas_steal(&d);
        return 0;
}

void cas_decompress_close(struct cas_decompress *d)
{
        if (!d)
                return;
        ZSTD_freeDStream(d->zstd);
        free(d->gzip);
        free(d->input);
        free(d);
}

enum cas_compression cas_decompress_kind(const struct cas_decompress *d)
{
        return d->kind;
}

uint64_t cas_decompress_stored_bytes(const struct cas_decompress *d)
{
        return d->fetched_bytes - input_left(d);
}

/* ---- plain ---- */

static int read_plain(struct cas_decompress *d, uint8_t *buf, size_t len, size_t *out_len,
                      struct cas_err *err)
{
        size_t n = input_left(d);
        if (n > 0) {
                n = n < len ? n : len;
                memcpy(buf, d->input + d->input_at, n);
                d->input_at += n;
        } else if (!d->input_ended) {
                if (d->source(d->arg, buf, len, &n, err) < 0)
                        return -(int)err->code;
                d->fetched_bytes += n;
                d->input_ended = n == 0;
        }
        *out_len = n;
        return 0;
}

/* ---- gzip ---- */

static const char *gzip_fault(int ret)
{
        switch (ret) {
        case ISAL_INVALID_BLOCK:
                return "invalid deflate block";
        case ISAL_INVALID_SYMBOL:
                return "invalid deflate symbol";
        case ISAL_INVALID_LOOKBACK:
                return "invalid deflate distance";
        case ISAL_INVALID_WRAPPER:
                return "invalid gzip header";
        case ISAL_UNSUPPORTED_METHOD:
                return "unknown compression method";
        case ISAL_INCORRECT_CHECKSUM:
                return "wrong checksum or length";
        default:
                return "invalid stream";
        }
}

_Static_assert(CAS_GZIP_HEADER_BYTES_MAX + KEPT_BYTES < INPUT_BYTES, "room for a header");

/* Begins the member that starts here. */
static int gzip_begin(struct cas_decompress *d, struct cas_err *err)
{
        size_t header_bytes;
        for (;;) {
                if (cas_gzip_header_find_end(d->input + d->input_at, input_left(d), &header_bytes,
                                             err) < 0)
                        return -(int)err->code;
                if (header_bytes > 0)
                        break;
                if (d->input_ended)
                        return cas_fail(err, CAS_E_CORRUPT, "gzip: the stream is cut off");
                if (fetch(d, err) < 0)
                        return -(int)err->code;
        }
        d->input_at += header_bytes;
        isal_inflate_reset(d->gzip);
        d->gzip->crc_flag = ISAL_GZIP_NO_HDR_VER;
        d->in_frame = d->after_frame = true;
        return 0;
}

/* Looks at what follows a member: another one, zeros up to the end (as tape
 * blocks leave them; gzip takes them too), or nothing. */
static int gzip_between(struct cas_decompress *d, struct cas_err *err)
{
        while (d->after_frame && d->input_at < d->input_len && d->input[d->input_at] == 0) {
                d->in_padding = true;
                d->input_at++;
        }
        if (input_left(d) == 0)
                return 0;
        if (d->in_padding || d->input[d->input_at] != 0x1f)
                return cas_fail(err, CAS_E_CORRUPT, "gzip: bytes after the end of the stream");
        return gzip_begin(d, err);
}

/* One step of inflating; *out_len may be 0 without the end being reached. */
static int gzip_step(struct cas_decompress *d, uint8_t *buf, size_t len, size_t *out_len,
                     struct cas_err *err)
{
        struct inflate_state *z = d->gzip;
        size_t left = input_left(d);
        uint32_t room = (uint32_t)cas_min_u64(len, UINT32_C(1) << 30);
        z->next_in = d->input + d->input_at;
        z->avail_in = (uint32_t)left;
        z->next_out = buf;
        z->avail_out = room;
        int ret = isal_inflate(z);
        *out_len = room - z->avail_out;
        d->input_at = d->input_len - z->avail_in;
        if (ret < 0 || ret == ISAL_NEED_DICT)
                return cas_fail(err, CAS_E_CORRUPT, "gzip: %s", gzip_fault(ret));
        if (z->block_state == ISAL_BLOCK_FINISH) {
                d->in_frame = false;
                /* Whole bytes that it took ahead and did not use. */
                d->input_at -= (size_t)z->read_in_length / 8;
        }
        if (d->in_frame && d->input_ended && *out_len == 0 && input_left(d) == left)
                return cas_fail(err, CAS_E_CORRUPT, "gzip: the stream is cut off");
        return 0;
}

static int read_gzip(struct cas_decompress *d, uint8_t *buf, size_t len, size_t *out_len,
                     struct cas_err *err)
{
        while (*out_len < len) {
                if (input_left(d) == 0 && !d->input_ended && fetch(d, err) < 0)
                        return -(int)err->code;
                if (!d->in_frame) {
                        if (gzip_between(d, err) < 0)
                                return -(int)err->code;
                        if (!d->in_frame && d->input_ended)
                                return 0;
                        if (!d->in_frame)
                                continue;
                }
                size_t got = 0;
                if (gzip_step(d, buf + *out_len, len - *out_len, &got, err) < 0)
                        return -(int)err->code;
                *out_len += got;
        }
        return 0;
}

/* ---- zstd ---- */

static int zstd_fail(size_t ret, struct cas_err *err)
{
        ZSTD_ErrorCode code = ZSTD_getErrorCode(ret);
        if (code == ZSTD_error_frameParameter_windowTooLarge)
                return cas_fail(err, CAS_E_LIMIT, "zstd: a window above %u MiB",
                                1U << (CAS_ZSTD_WINDOW_LOG_MAX - 20));
        if (code == ZSTD_error_memory_allocation)
                return cas_fail(err, CAS_E_NOMEM, "zstd: window of the stream");
        return cas_fail(err, CAS_E_CORRUPT, "zstd: %s", ZSTD_getErrorName(ret));
}

static int read_zstd(struct cas_decompress *d, uint8_t *buf, size_t len, size_t *out_len,
                     struct cas_err *err)
{
        while (*out_len < len) {
                if (input_left(d) == 0 && !d->input_ended && fetch(d, err) < 0)
                        return -(int)err->code;
                if (input_left(d) == 0 && !d->in_frame)
                        return 0;
                size_t before = input_left(d);
                ZSTD_inBuffer in = {.src = d->input, .size = d->input_len, .pos = d->input_at};
                ZSTD_outBuffer to = {.dst = buf, .size = len, .pos = *out_len};
                size_t ret = ZSTD_decompressStream(d->zstd, &to, &in);
                if (ZSTD_isError(ret))
                        return zstd_fail(ret, err);
                bool moved = to.pos > *out_len || before > d->input_len - in.pos;
                d->input_at = in.pos;
                *out_len = to.pos;
                d->in_frame = ret != 0;
                if (!moved && d->input_ended)
                        return cas_fail(err, CAS_E_CORRUPT, "zstd: the stream is cut off");
        }
        return 0;
}

int cas_decompress_check(uint64_t decoded_bytes, uint64_t stored_bytes, struct cas_err *err)
{
        if (decoded_bytes > CAS_TAR_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "a layer of more than %" PRIu64 " GiB",
                                CAS_TAR_BYTES_MAX / CAS_GIB);
        if (decoded_bytes > CAS_TAR_RATIO_FREE_BYTES &&
            (decoded_bytes - CAS_TAR_RATIO_FREE_BYTES) / CAS_TAR_RATIO_MAX > stored_bytes)
                return cas_fail(err, CAS_E_LIMIT, "a layer that expands more than %d times",
                                CAS_TAR_RATIO_MAX);
        return 0;
}

int cas_decompress_read(struct cas_decompress *d, void *buf, size_t len, size_t *out_len,
                        struct cas_err *err)
{
        size_t got = 0;
        int ret = 0;
        switch (d->kind) {
        case CAS_COMPRESSION_NONE:
                ret = read_plain(d, buf, len, &got, err);
                break;
        case CAS_COMPRESSION_GZIP:
                ret = read_gzip(d, buf, len, &got, err);
                break;
        case CAS_COMPRESSION_ZSTD:
                ret = read_zstd(d, buf, len, &got, err);
                break;
        }
        if (ret < 0)
                return ret;
        d->produced_bytes += got;
        if (cas_decompress_check(d->produced_bytes, d->fetched_bytes, err) < 0)
                return -(int)err->code;
        *out_len = got;
        return 0;
}
