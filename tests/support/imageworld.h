/* SPDX-License-Identifier: Apache-2.0 */
/* A few small images that share layers, files and chunks, made in memory as a client has them; and
 * what must be true of them in a store, by what was acknowledged. */
#ifndef TESTS_IMAGEWORLD_H
#define TESTS_IMAGEWORLD_H

#include "cas/image.h"

#define WORLD_LAYERS 5
#define WORLD_IMAGES 5
#define WORLD_IMAGE_LAYERS 2
#define WORLD_REPO "r"

struct world_blob {
        struct cas_buf bytes;
        struct cas_digest digest, diff_id; /* diff_id: of layers */
};
struct world_image {
        unsigned layers[WORLD_IMAGE_LAYERS];
        struct world_blob config, manifest;
};
struct world {
        struct world_blob layers[WORLD_LAYERS];
        struct world_image images[WORLD_IMAGES];
};
/* Static storage; made once. Layers are gzip (0, 2, 4) and plain tar. */
const struct world *world_get(void);
/* The blob i of an image: its config (0), then its layers; NULL: no more. */
const struct world_blob *world_image_blob(const struct world_image *image, unsigned i);
/* An OCI layout of all images as `dir`/layout; their tags are "0", "1" … */
void world_write_layout(const char *dir);

/* ---- what was done, and what must be true therefore ---- */

enum world_act { WORLD_PUT, WORLD_DELETE };
struct world_history {
        struct world_event {
                enum world_act act;
                unsigned image;
                uint64_t begin, end; /* of this history's clock; end 0: under way */
                bool acknowledged;
        } events[256];
        unsigned count;
        uint64_t clock;
};
/* An act begins; gives its number. */
unsigned world_begin(struct world_history *h, enum world_act act, unsigned image);
void world_end(struct world_history *h, unsigned event, bool acknowledged);
uint64_t world_now(struct world_history *h);
/* Whether the image was there for the whole of that time: it was put before, and nobody began to
 * delete it since. */
bool world_was_there(const struct world_history *h, unsigned image, uint64_t from, uint64_t until);
/* Whether it must be gone at the end: deleted, and nobody was putting it then or later. */
bool world_is_gone(const struct world_history *h, unsigned image);

/* Reads a blob as those do who serve it, and compares. 0 or -code; CORRUPT: other bytes. */
int world_blob_check(struct cas_store *s, const struct world_blob *blob,
                     struct cas_err *err) CAS_MUST_CHECK;
/* The same of the image's manifest, which must be in the repository, config and layers, and of all
 * the files in layers that are decoded. */
int world_image_check(struct cas_store *s, const char *repo, const struct world_image *image,
                      struct cas_err *err) CAS_MUST_CHECK;

#endif
