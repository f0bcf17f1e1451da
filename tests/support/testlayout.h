/* SPDX-License-Identifier: Apache-2.0 */
/* OCI layouts made by hand, right or wrong in every byte. Each call asserts success. */
#ifndef TESTS_TESTLAYOUT_H
#define TESTS_TESTLAYOUT_H

#include "cas/image.h"

struct testlayout {
        char *path;           /* owned */
        struct cas_buf index; /* elements of "manifests" so far */
};
void testlayout_init(struct testlayout *l, const char *dir, const char *name);
void testlayout_release(struct testlayout *l);
/* Writes a blob and gives its digest. */
struct cas_digest testlayout_blob(struct testlayout *l, const void *data, size_t len);
/* Path of a blob's file. Owned by the caller. */
char *testlayout_path(const struct testlayout *l, const struct cas_digest *d);
/* {"mediaType":…,"digest":…,"size":…<more>}, appended. */
void testlayout_descriptor(struct cas_buf *out, const char *type, const struct cas_digest *d,
                           uint64_t size, const char *more);
/* An image of one gzip layer that holds FILE "f" with this text, for a platform; gives the
 * descriptor of its manifest with `more` in it. */
void testlayout_image(struct testlayout *l, const char *text, const char *arch, struct cas_buf *out,
                      const char *more);
/* Adds a descriptor to index.json, with a name unless it is "". */
void testlayout_name(struct testlayout *l, const char *descriptor, const char *name);
/* Writes oci-layout and index.json. */
void testlayout_finish(struct testlayout *l);
void testlayout_write(const struct testlayout *l, const char *name, const void *data, size_t len);
/* The gzip layer and its diff_id, as testlayout_image makes them. */
void testlayout_layer(const char *text, struct cas_buf *gzip, struct cas_digest *diff_id);

#endif
