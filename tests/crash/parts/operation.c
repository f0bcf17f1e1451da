/* SPDX-License-Identifier: Apache-2.0 */
/* What operations share. */
#include "tests/crash/parts/operation.h"

#include "cas/names.h"

const char *crash_side;
int (*crash_backend_open)(struct cas_store *s, struct cas_backend **out, struct cas_err *err);

bool has_tag(struct cas_store *s, const char *tag, struct cas_digest *out)
{
        struct cas_err err = CAS_ERR_INIT;
        return cas_tag_get(s, "r", tag, out, &err) == 0;
}

void put_image(struct cas_store *s, const char *tag, unsigned seed, struct testimage *out)
{
        struct cas_err err = CAS_ERR_INIT;
        must(testimage_put(s, "r", tag, seed, FILES, out, &err) == 0);
}

bool image_is_whole(struct cas_store *s, const char *tag, unsigned seed)
{
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image;
        cas_cleanup_free char *config = cas_xasprintf("{\"seed\":%u}", seed);
        cas_cleanup_free char *blob = cas_xasprintf("layer %u %u", seed, FILES);
        struct cas_manifest_info info;
        image.config = test_digest(config);
        image.layer.blob = test_digest(blob);
        return has_tag(s, tag, &image.manifest) &&
               cas_manifest_stat(s, "r", &image.manifest, &info, &err) == 0 &&
               testimage_is_whole(s, &image, seed, FILES);
}
void prepare_one(struct cas_store *s)
{
        struct testimage image;
        put_image(s, "old", 0, &image);
}
void prepare_two(struct cas_store *s)
{
        struct testimage image;
        put_image(s, "old", 0, &image);
        put_image(s, "second", 50, &image);
}
enum outcome look_both(struct cas_store *s)
{
        return image_is_whole(s, "old", 0) && image_is_whole(s, "second", 50) ? AFTER : BROKEN;
}
