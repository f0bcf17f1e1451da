/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs and documents go to a registry elsewhere: what is there stays, what another
 * repository there has is mounted, the rest is uploaded, and goes on where it was
 * when a connection breaks. Thread-safe: blobs go side by side. */
#ifndef REG_DELIVER_H
#define REG_DELIVER_H

#include "registry/board.h"
#include "registry/imageplan.h"
#include "registry/remote.h"

/* Blobs up to this size are sent with the request that ends the upload. */
#define REG_DELIVER_WHOLE_BYTES (UINT64_C(8) << 20)
/* What is sent at a time to a registry (or what is in front of it) that takes no larger bodies. */
#define REG_DELIVER_CHUNK_BYTES (UINT64_C(16) << 20)

enum reg_deliver_how { REG_DELIVER_THERE, REG_DELIVER_MOUNTED, REG_DELIVER_SENT };

/* Where the bytes of blobs come from. */
struct reg_deliver_source {
        /* From an offset on. Errors: NOTFOUND. */
        int (*open)(void *arg, const struct reg_plan_blob *b, uint64_t offset, void **stream,
                    struct cas_err *err);
        int (*read)(void *stream, void *buf, size_t len, size_t *out_len, struct cas_err *err);
        void (*close)(void *stream);
        void *arg;
};
struct reg_deliver {
        struct reg_remote *remote;
        const char *repo;       /* there */
        const char *mount_from; /* a repository there that has the blobs; NULL: any may be tried */
        const struct reg_deliver_source *source;
        const _Atomic bool *stop; /* ends what is under way: BUSY; may be NULL */
};
/* The registry has the blob on return. Blocks. Errors: DENIED, BUSY, INVALID (it is refused), IO,
 * those of the source. */
int reg_deliver_blob(const struct reg_deliver *d, const struct reg_plan_blob *b,
                     struct reg_board_part *part, enum reg_deliver_how *how,
                     struct cas_err *err) CAS_MUST_CHECK;
/* reference: a tag or digest text. *subject_known (may be NULL): the registry lists it as what
 * refers to its subject. Errors: as above, CORRUPT (it says another digest). */
int reg_deliver_document(const struct reg_deliver *d, const struct reg_plan_doc *doc,
                         const char *reference, bool *subject_known,
                         struct cas_err *err) CAS_MUST_CHECK;

#endif
