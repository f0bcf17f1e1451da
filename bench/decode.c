/* SPDX-License-Identifier: Apache-2.0 */
/* What decoding a layer costs, stage by stage: each line adds one to those before.
 *
 *     decode BLOB STORE
 *
 * Prints "STAGE SECONDS" lines; STORE is made, and the layer imported into it by the last stage. */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>

#include "cas/decompress.h"
#include "cas/hashpipe.h"
#include "cas/io.h"
#include "cas/layer.h"
#include "cas/tar.h"
#include "cas/verity.h"

#define PIECE_BYTES (512 * 1024)

enum stage { READ, INFLATE, HASH_BLOB, HASH_TAR, ENTRIES, VERITY, STAGE_COUNT };
static const char *const stage_names[STAGE_COUNT] = {
        "read", "inflate", "sha256-blob", "sha256-tar", "tar-entries", "fs-verity",
};

struct run {
        int fd;
        enum stage stage;
        struct cas_hasher *blob_hasher;
        struct cas_decompress *decompress;
        struct cas_hashpipe *pipe;
        uint8_t *piece;
};

static double now(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int source(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct run *r = arg;
        ssize_t n = read(r->fd, buf, len);
        if (n < 0)
                return cas_fail(err, CAS_E_IO, "read");
        if (r->stage >= HASH_BLOB)
                cas_hasher_update(r->blob_hasher, buf, (size_t)n);
        *out_len = (size_t)n;
        return 0;
}

static int piece(void *arg, const uint8_t **data, size_t *len, struct cas_err *err)
{
        struct run *r = arg;
        uint8_t *to = r->stage >= HASH_TAR ? cas_hashpipe_buffer(r->pipe) : r->piece;
        if (cas_decompress_read(r->decompress, to, PIECE_BYTES, len, err) < 0)
                return -(int)err->code;
        if (r->stage >= HASH_TAR)
                cas_hashpipe_put(r->pipe, *len);
        *data = to;
        return 0;
}

static int entries(struct run *r, struct cas_err *err)
{
        cas_cleanup_tar struct cas_tar *tar = NULL;
        if (cas_tar_open(piece, r, &tar, err) < 0)
                return -(int)err->code;
        for (;;) {
                struct cas_entry *e;
                if (cas_tar_next(tar, &e, err) < 0)
                        return -(int)err->code;
                if (!e)
                        return 0;
                cas_cleanup_verity struct cas_verity *v = cas_verity_new();
                for (size_t len = 1; r->stage >= VERITY && len > 0;) {
                        const uint8_t *data;
                        if (cas_tar_data(tar, &data, &len, err) < 0)
                                return -(int)err->code;
                        cas_verity_update(v, data, len);
                }
        }
}

static int run_stage(const char *path, enum stage stage, struct cas_err *err)
{
        struct run r = {.stage = stage, .fd = open(path, O_RDONLY | O_CLOEXEC)};
        if (r.fd < 0)
                return cas_fail(err, CAS_E_IO, "%s", path);
        r.piece = cas_xmalloc(PIECE_BYTES);
        r.blob_hasher = cas_hasher_new(CAS_DIGEST_SHA256);
        double start = now();
        int rc = 0;
        size_t len = 1;
        const uint8_t *data;
        if (stage == READ) {
                while (rc == 0 && len > 0)
                        rc = source(&r, r.piece, PIECE_BYTES, &len, err);
        } else {
                rc = cas_decompress_open(source, &r, &r.decompress, err);
                if (rc == 0 && stage >= HASH_TAR)
                        rc = cas_hashpipe_new(&r.pipe, err);
                if (rc == 0 && stage >= ENTRIES)
                        rc = entries(&r, err);
                while (rc == 0 && len > 0)
                        rc = piece(&r, &data, &len, err);
        }
        struct cas_digest digest;
        if (rc == 0 && r.pipe)
                cas_hashpipe_final(r.pipe, &digest);
        if (rc == 0)
                printf("%s %.4f\n", stage_names[stage], now() - start);
        cas_hashpipe_free(r.pipe);
        cas_decompress_close(r.decompress);
        cas_hasher_free(r.blob_hasher);
        free(r.piece);
        (void)close(r.fd);
        return rc;
}

static int import(const char *path, const char *store_path, struct cas_err *err)
{
        cas_cleanup_store struct cas_store *s = NULL;
        struct cas_layer_record rec;
        struct run r = {.stage = READ, .fd = open(path, O_RDONLY | O_CLOEXEC)};
        if (cas_store_open(&(struct cas_store_config){.path = store_path}, &s, err) < 0)
                return -(int)err->code;
        double start = now();
        int rc = cas_layer_import(s, source, &r, NULL, NULL, &rec, err);
        if (rc == 0)
                printf("import %.4f\n", now() - start);
        (void)close(r.fd);
        return rc;
}

int main(int argc, char **argv)
{
        struct cas_err err = CAS_ERR_INIT;
        int rc = 0;
        if (argc != 3) {
                fprintf(stderr, "usage: decode BLOB STORE\n");
                return 2;
        }
        for (enum stage stage = READ; rc == 0 && stage < STAGE_COUNT; stage++)
                rc = run_stage(argv[1], stage, &err);
        if (rc == 0)
                rc = import(argv[1], argv[2], &err);
        if (rc < 0)
                fprintf(stderr, "decode: %s\n", err.msg);
        return rc < 0;
}
