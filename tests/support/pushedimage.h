/* SPDX-License-Identifier: Apache-2.0 */
/* Images of one real layer, pushed as a client does: what can be decoded, condensed and made again.
 * Everything asserts success, by ending the program, unless it returns a code. */
#ifndef TESTS_SUPPORT_PUSHEDIMAGE_H
#define TESTS_SUPPORT_PUSHEDIMAGE_H

#include "cas/image.h"
#include "cas/layer.h"

enum pushed_kind { PUSHED_TAR, PUSHED_GZIP, PUSHED_ZSTD_FRAMES };
struct pushedimage {
        const char *repo, *tag; /* borrowed */
        struct cas_digest layer, config, manifest;
        struct cas_buf bytes; /* of the layer's blob */
        struct cas_buf config_bytes, manifest_bytes;
        unsigned seed, files;
};
/* Its layer has `files` files; the first name comes twice. Nothing is put into a store. */
void pushedimage_make(struct pushedimage *out, const char *repo, const char *tag, unsigned seed,
                      unsigned files, enum pushed_kind kind);
void pushedimage_release(struct pushedimage *image);
#define cleanup_pushedimage __attribute__((cleanup(pushedimage_release)))
/* 0 or -code. */
int pushedimage_push(struct cas_store *s, const struct pushedimage *image, struct cas_err *err);
/* Decoded, as for a mount. */
int pushedimage_decode(struct cas_store *s, const struct pushedimage *image,
                       struct cas_layer_record *out, struct cas_err *err);
/* 0: the layer's bytes, the config, the manifest and every file are what they should be. 1: none of
 * what could be read differs, but something is missing, told in err. -1: other bytes were given. */
int pushedimage_check(struct cas_store *s, const struct pushedimage *image, struct cas_err *err);

#endif
