/* SPDX-License-Identifier: Apache-2.0 */
/* Operations on how content is kept: condensing, copies, packs. */
#include "cas/blob.h"
#include "cas/condense.h"
#include "cas/packset_int.h"
#include "cas/regen.h"
#include "tests/crash/parts/operation.h"
#include "tests/support/tarmake.h"

/* A layer as a client pushes it; the same whenever it is asked for. */
static void condensed_tar(struct cas_buf *out)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        for (unsigned i = 0; i < 4; i++) {
                cas_cleanup_free char *name = cas_xasprintf("dir/file%u", i % 3);
                test_file(300 + i, &bytes);
                tarmake_header(out, &(struct tarmake){.name = name, .size = bytes.len_bytes});
                tarmake_data(out, bytes.data, bytes.len_bytes);
        }
        tarmake_end(out);
}

static struct cas_digest condensed_digest(void)
{
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        struct cas_digest d;
        condensed_tar(&tar);
        cas_digest_of(CAS_DIGEST_SHA256, tar.data, tar.len_bytes, &d);
        return d;
}

static void prepare_condense(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        struct cas_digest d;
        cas_cleanup_publish struct cas_publish *p = NULL;
        prepare_one(s);
        condensed_tar(&tar);
        must(cas_publish_begin(s, &p, &err) == 0);
        must(cas_publish_blob(p, tar.data, tar.len_bytes, NULL, &d, &err) == 0);
        must(cas_publish_blob_link(p, "r", &d, &err) == 0);
        must(cas_publish_commit(p, &err) == 0);
}

static int run_condense(struct cas_store *s, struct cas_err *err)
{
        struct cas_digest d = condensed_digest();
        struct cas_recipe_record rec;
        const struct cas_condense_options options = {.threads = 1};
        int rc = cas_condense_blob(s, &d, &options, NULL, &rec, err);
        must(rc < 0 || rec.is_proved);
        return rc;
}

/* Reads the blob as those do who serve it, from its copy or its recipe. */
static int read_condensed(struct cas_store *s, const struct cas_digest *d, struct cas_buf *out,
                          struct cas_err *err)
{
        cas_cleanup_regen struct cas_regen *g = NULL;
        struct cas_recipe_record rec;
        int rc = cas_blob_read(s, d, 1 << 24, out, err);
        if (rc != -CAS_E_UNSUPPORTED)
                return rc;
        rc = cas_recipe_stat(s, d, &rec, err);
        if (rc == 0)
                rc = cas_regen_open(s, d, &rec.recipe, 0, 1, &g, err);
        for (size_t n = 1; rc == 0 && n > 0; out->len_bytes += rc == 0 ? n : 0) {
                cas_buf_reserve(out, 65536);
                rc = cas_regen_read(g, out->data + out->len_bytes, 65536, &n, err);
        }
        return rc;
}

static bool condensed_is_served(struct cas_store *s, enum cas_blob_copy *copy)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf want = CAS_BUF_INIT, got = CAS_BUF_INIT;
        struct cas_digest d = condensed_digest();
        condensed_tar(&want);
        return cas_blob_copy(s, &d, copy, &err) == 0 && read_condensed(s, &d, &got, &err) == 0 &&
               got.len_bytes == want.len_bytes && memcmp(got.data, want.data, want.len_bytes) == 0;
}

static enum outcome look_condense(struct cas_store *s)
{
        enum cas_blob_copy copy;
        if (!image_is_whole(s, "old", 0) || !condensed_is_served(s, &copy))
                return BROKEN;
        return copy == CAS_BLOB_CONDENSED ? AFTER : BEFORE;
}

static void prepare_copy(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        prepare_condense(s);
        must(run_condense(s, &err) == 0);
}

/* A copy comes again, and goes. */
static int run_copy(struct cas_store *s, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        struct cas_digest d = condensed_digest();
        bool kept;
        condensed_tar(&tar);
        s->blob_cache_bytes = UINT64_MAX;
        int rc = cas_io_replace_file(s->io, s->dirfd, "uploads", "uploads/tmp-copy", tar.data,
                                     tar.len_bytes, 0600, err);
        if (rc == 0)
                rc = cas_blob_cache_put(s, "tmp-copy", &d, &kept, err);
        return rc < 0 ? rc : cas_blob_cache_shrink(s, 0, NULL, err);
}

static enum outcome look_copy(struct cas_store *s)
{
        enum cas_blob_copy copy;
        if (!condensed_is_served(s, &copy))
                return BROKEN;
        return copy == CAS_BLOB_CONDENSED ? AFTER : BEFORE;
}

static void prepare_recode(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        prepare_two(s);
        must(cas_packset_seal(s->packset, &err) == 0);
        struct testimage image;
        put_image(s, "third", 90, &image);
}

static int run_recode(struct cas_store *s, struct cas_err *err)
{
        struct cas_recode_result r;
        int rc = cas_condense_packs(s, CAS_CONDENSE_DEFAULT, NULL, NULL, &r, err);
        must(rc < 0 || r.damaged == 0);
        return rc;
}

static bool is_dense(void *arg, uint64_t pack_id CAS_UNUSED, const struct cas_pack_record *rec)
{
        bool *all = arg;
        *all = *all && rec->density == CAS_PACK_DEFAULT;
        return true;
}

static enum outcome look_recode(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        bool dense = true;
        if (!image_is_whole(s, "old", 0) || !image_is_whole(s, "second", 50) ||
            !image_is_whole(s, "third", 90) ||
            cas_index_each_pack(s->index, is_dense, &dense, &err) < 0)
                return BROKEN;
        return dense ? AFTER : BEFORE;
}
static const struct operation list[] = {
        {.name = "condense",
         .prepare = prepare_condense,
         .run = run_condense,
         .look = look_condense,
         .quick = true},
        {.name = "copy", .prepare = prepare_copy, .run = run_copy, .look = look_copy},
        {.name = "recode", .prepare = prepare_recode, .run = run_recode, .look = look_recode},
};
const struct operations crash_condense = {list, CAS_COUNT(list)};
