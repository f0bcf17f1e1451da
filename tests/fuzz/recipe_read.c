/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a recipe: an error, or a stream that is no longer than the recipe says. The store
 * holds a small layer whose listing and objects recipes of the corpus refer to; they wrap it
 * plainly, by encoders of every family with marks at and within parts, and by difference. */
#include "cas/layer.h"
#include "cas/recipe_int.h"
#include "cas/regen.h"
#include "tests/support/fuzzstore.h"
#include "tests/support/memsource.h"
#include "tests/support/tarfix.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define READ_BYTES_MAX (1 << 20)

static void add_entry(struct cas_buf *tar, const char *name, char type, size_t bytes)
{
        char block[512] = {0};
        (void)snprintf(block, 100, "%s", name);
        (void)snprintf(block + 100, 8, "%07o", 0644);
        (void)snprintf(block + 124, 12, "%011zo", bytes);
        block[156] = type;
        memcpy(block + 257, "ustar\00000", 8);
        tarfix((uint8_t *)block, sizeof(block));
        cas_buf_append(tar, block, sizeof(block));
        for (size_t i = 0; i < cas_align_up(bytes, 512); i++)
                cas_buf_append_byte(tar, i < bytes ? (uint8_t)(i * i >> 3) : 0);
}

static struct cas_store *store_with_layer(void)
{
        struct cas_store *s = fuzzstore_get();
        static bool made;
        if (made)
                return s;
        made = true;
        struct cas_layer_record layer;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        add_entry(&tar, "dir/", '5', 0);
        add_entry(&tar, "dir/large", '0', 300000);
        add_entry(&tar, "dir/small", '0', 40);
        add_entry(&tar, "file", '0', 5000);
        cas_buf_append_zero(&tar, 1024);
        struct memsource source = {.data = tar.data, .len = tar.len_bytes, .step = SIZE_MAX};
        fuzz_ok(cas_layer_import(s, memsource_read, &source, NULL, NULL, &layer, err));
        return s;
}

static struct cas_hash publish(struct cas_store *s, const uint8_t *data, size_t size)
{
        struct cas_hash id;
        cas_cleanup_publish struct cas_publish *p = NULL;
        fuzz_ok(cas_publish_begin(s, &p, err));
        fuzz_ok(cas_publish_object(p, data, size, &id, err));
        fuzz_ok(cas_publish_commit(p, err));
        return id;
}

static int count_object(void *arg, const struct cas_hash *object CAS_UNUSED,
                        struct cas_err *err CAS_UNUSED)
{
        ++*(uint64_t *)arg;
        return 0;
}

static void read_tar(struct cas_recipe *r, uint64_t offset)
{
        cas_cleanup_tarrecipe struct cas_tarrecipe_reader *t = NULL;
        struct cas_err reason = CAS_ERR_INIT;
        uint8_t piece[5000];
        size_t n = 1;
        uint64_t total = 0, left = cas_recipe_head(r)->tar_bytes - offset;
        if (cas_tarrecipe_open(r, offset, &t, &reason) < 0)
                return;
        while (n > 0 && total < READ_BYTES_MAX &&
               cas_tarrecipe_read(t, piece, sizeof(piece), &n, &reason) == 0)
                total += n;
        cas_assert(total <= left);
        cas_assert(n > 0 || total == left);
}

static void read_blob(struct cas_store *s, const struct cas_hash *id, uint64_t offset)
{
        cas_cleanup_regen struct cas_regen *g = NULL;
        struct cas_digest digest;
        struct cas_err reason = CAS_ERR_INIT;
        uint8_t piece[5000];
        size_t n = 1;
        uint64_t total = 0;
        cas_digest_of(CAS_DIGEST_SHA256, "", 0, &digest);
        if (cas_regen_open(s, &digest, id, offset, 1, &g, &reason) < 0)
                return;
        while (n > 0 && total < READ_BYTES_MAX &&
               cas_regen_read(g, piece, sizeof(piece), &n, &reason) == 0)
                total += n;
        cas_assert(total <= cas_regen_blob_bytes(g) - offset);
}

#define MARKS_MAX 4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_store *s = store_with_layer();
        struct cas_err reason = CAS_ERR_INIT;
        cas_cleanup_recipe struct cas_recipe *r = NULL;
        uint64_t objects = 0;
        struct cas_hash id = publish(s, data, size);
        if (cas_recipe_open(s, &id, &r, &reason) < 0)
                return 0;
        const struct cas_recipe_head *head = cas_recipe_head(r);
        if (cas_tarrecipe_each_object(r, count_object, &objects, &reason) == 0)
                cas_assert(objects <= size);
        read_tar(r, 0);
        read_tar(r, head->tar_bytes / 3 * 2);
        read_blob(s, &id, 0);
        read_blob(s, &id, head->blob_bytes / 3);
        for (uint32_t i = 1; i < head->mark_count && i <= MARKS_MAX; i++) {
                struct cas_recipe_mark mark;
                if (cas_recipe_mark(r, i, &mark, &reason) == 0)
                        read_blob(s, &id, mark.blob_offset);
        }
        return 0;
}
