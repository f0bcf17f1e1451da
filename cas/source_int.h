/* SPDX-License-Identifier: Apache-2.0 */
/* Where images are imported from: a set of named images and the blobs they
 * lead to, by digest. Layouts and archives implement it. Everything that comes
 * out is hostile until its digest was compared. Opening blobs is thread-safe;
 * a stream belongs to one thread. */
#ifndef CAS_SOURCE_INT_H
#define CAS_SOURCE_INT_H

#include "cas/image.h"
#include "cas/transfer.h"

/* The bytes of one blob: a range of a file, or memory. */
struct cas_stream {
        int fd;
        bool own_fd;           /* closed with the stream; else borrowed from the source */
        const uint8_t *memory; /* borrowed; used when fd is -1 */
        uint64_t offset;
        uint64_t left_bytes;
};
/* The shape that cas_layer_import wants: arg is a struct cas_stream. */
int cas_stream_read(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err);
/* All that is left, appended. Errors: LIMIT (before anything is read). */
int cas_stream_read_all(struct cas_stream *st, const char *what, size_t max_bytes,
                        struct cas_buf *out, struct cas_err *err) CAS_MUST_CHECK;
void cas_stream_close(struct cas_stream *st);
#define cas_cleanup_stream __attribute__((cleanup(cas_stream_close)))

struct cas_source_image {
        char *name;  /* owned: what the image is called there; "" when nothing */
        char *alias; /* owned: another name that selects it; "" when none */
        struct cas_descriptor top;
};

struct cas_source;
struct cas_source_ops {
        /* Errors: NOTFOUND. */
        int (*open_blob)(struct cas_source *src, const struct cas_digest *digest,
                         struct cas_stream *out, struct cas_err *err);
        void (*free)(struct cas_source *src);
};
struct cas_source {
        const struct cas_source_ops *ops;
        struct cas_source_image *images; /* owned */
        size_t image_count;
};
void cas_source_free(struct cas_source *src);
CAS_DEFINE_CLEANUP(cas_cleanup_source_, struct cas_source *, cas_source_free);
#define cas_cleanup_source __attribute__((cleanup(cas_cleanup_source_)))

/* For the implementations: releases what is common; copies. Errors: LIMIT. */
void cas_source_release(struct cas_source *src);
int cas_source_add(struct cas_source *src, const char *name, const char *alias,
                   const struct cas_descriptor *top, struct cas_err *err) CAS_MUST_CHECK;
/* A whole blob, appended, its digest compared. Errors: NOTFOUND, LIMIT, INVALID (digest). */
int cas_source_read(struct cas_source *src, const struct cas_digest *digest, size_t max_bytes,
                    struct cas_buf *out, struct cas_err *err) CAS_MUST_CHECK;

/* "blobs/sha256/<hex>" of a layout; out has CAS_LAYOUT_PATH_BYTES. Returns out. */
#define CAS_LAYOUT_PATH_BYTES 152
char *cas_layout_blob_path(const struct cas_digest *digest, char *out);
#define CAS_LAYOUT_ANNOTATION_NAME "org.opencontainers.image.ref.name"
#define CAS_LAYOUT_ANNOTATION_FULL "io.containerd.image.name"
#define CAS_LAYOUT_MARKER "{\"imageLayoutVersion\":\"1.0.0\"}"
/* Checks the bytes of an oci-layout file, and fills src from those of an index.json. */
int cas_layout_check_marker(const void *data, size_t len, struct cas_err *err) CAS_MUST_CHECK;
int cas_layout_read_index(const void *data, size_t len, struct cas_source *src,
                          struct cas_err *err) CAS_MUST_CHECK;

int cas_layout_source(const char *path, struct cas_source **out,
                      struct cas_err *err) CAS_MUST_CHECK;
/* tmp_dirfd: where a compressed archive is unpacked to, into a file without a name. */
int cas_archive_source(const char *path, int tmp_dirfd, struct cas_source **out,
                       struct cas_err *err) CAS_MUST_CHECK;
int cas_docker_source(const char *path, int tmp_dirfd, struct cas_source **out,
                      struct cas_err *err) CAS_MUST_CHECK;

#endif
