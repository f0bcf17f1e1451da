/* SPDX-License-Identifier: Apache-2.0 */
/* Small images made without a tar: objects, a listing, a layer's blob and
 * record, config, manifest and tag, in one publication. */
#ifndef TESTS_TESTIMAGE_H
#define TESTS_TESTIMAGE_H

#include "cas/layer.h"
#include "cas/publish.h"

struct testimage {
        struct cas_layer_record layer;
        struct cas_digest config, manifest;
};
/* An image with one layer of `files` files; file i is test_file(seed + i). 0 or -code. */
int testimage_put(struct cas_store *s, const char *repo, const char *tag, unsigned seed,
                  unsigned files, struct testimage *out, struct cas_err *err);
/* Whether all of it is there and every file reads back as it should. */
bool testimage_is_whole(struct cas_store *s, const struct testimage *image, unsigned seed,
                        unsigned files);
/* Content of a file: sizes from 100 bytes to (every fifth) 700 KiB, that compress a little. */
void test_file(unsigned seed, struct cas_buf *out);

#endif
