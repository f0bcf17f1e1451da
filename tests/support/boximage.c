/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/boximage.h"

#include <stdio.h>

#include "cas/limits.h"
#include "tests/support/listing_text.h"

static uint32_t seed_of(const char *path, uint64_t size_bytes)
{
        struct cas_hash h;
        listing_object(path, size_bytes, &h);
        return cas_get_le32(h.bytes);
}

void boximage_content(const char *path, size_t size, uint8_t *out)
{
        fusebox_content(seed_of(path, size), size, out);
}

static void apply(struct fusebox *box, struct cas_merge *m, const char *text)
{
        struct cas_listing l;
        struct cas_err err = CAS_ERR_INIT;
        listing_from_text(text, &l);
        /* Files get content of our own: the store holds it under its real name. */
        for (size_t i = 0; i < l.count; i++) {
                struct cas_entry *e = &l.entries[i];
                if (e->type == CAS_ENTRY_FILE && e->size_bytes > CAS_INLINE_BYTES_MAX)
                        fusebox_add(box, seed_of(e->path, e->size_bytes), e->size_bytes,
                                    &e->object);
        }
        int rc = cas_merge_apply(m, &l, &err);
        cas_assert(rc == 0);
        cas_listing_release(&l);
}

void boximage_make(struct fusebox *box, const char *name, const char *const *layers, size_t count,
                   struct ffs_image *out)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_tree_options options = {0};
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_merge struct cas_merge *m = cas_merge_new();
        char hex[CAS_DIGEST_TEXT_BYTES];
        for (size_t i = 0; i < count; i++)
                apply(box, m, layers[i]);
        *out = (struct ffs_image){.tree_count = 1};
        (void)snprintf(out->name, sizeof(out->name), "%s", name);
        cas_digest_of(CAS_DIGEST_SHA256, name, strlen(name), &out->manifest);
        int rc = cas_merge_write_erofs(m, &options, &bytes, &out->trees[0], &err);
        cas_assert(rc == 0);
        (void)snprintf(out->tree_paths[0], sizeof(out->tree_paths[0]), "%s/%s.erofs", box->dir,
                       cas_digest_hex(&out->trees[0], hex));
        FILE *f = fopen(out->tree_paths[0], "we");
        cas_assert(f != NULL);
        size_t written = fwrite(bytes.data, 1, bytes.len_bytes, f);
        cas_assert(written == bytes.len_bytes);
        rc = fclose(f);
        cas_assert(rc == 0);
}
