/* SPDX-License-Identifier: Apache-2.0 */
/* Parts that are not here yet: each says so. This file goes when they have come. */
#include "cas/maintain.h"
#include "cas/transfer.h"

#define PENDING(...)                                                                               \
        __attribute__((weak)) int __VA_ARGS__                                                      \
        {                                                                                          \
                return cas_fail(err, CAS_E_UNSUPPORTED, "%s: not in this build", __func__);        \
        }
#pragma GCC diagnostic ignored "-Wunused-parameter"
PENDING(cas_pack_dir(struct cas_store *s, const char *dir, const struct cas_ref *ref,
                     const struct cas_pack_options *options, const struct cas_progress *progress,
                     struct cas_manifest_info *out, struct cas_err *err))
PENDING(cas_unpack(struct cas_store *s, const struct cas_image *image, const char *dir,
                   const struct cas_progress *progress, uint64_t *lossy_count, struct cas_err *err))
PENDING(cas_gc(struct cas_store *s, const struct cas_gc_options *options,
               const struct cas_progress *progress, struct cas_gc_result *out, struct cas_err *err))
PENDING(cas_fsck(struct cas_store *s, const struct cas_progress *progress, cas_fsck_fn fn,
                 void *arg, struct cas_fsck_result *out, struct cas_err *err))
PENDING(cas_rebuild(const struct cas_store_config *config, const struct cas_progress *progress,
                    struct cas_err *err))
PENDING(cas_upgrade(const struct cas_store_config *config, unsigned *out_from, unsigned *out_to,
                    struct cas_err *err))
