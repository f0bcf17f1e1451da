/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever a layer's tar stream is, its recipe makes the same bytes again, from the beginning and
 * from any other byte. The first byte of the input says how it is fed and with which listing. */
#include "cas/layer.h"
#include "cas/recipe_int.h"
#include "tests/support/fuzzstore.h"
#include "tests/support/memsource.h"
#include "tests/support/tarfix.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct cas_hash listing; /* of the last stream that was a layer */
static bool has_listing;

static void import(struct cas_store *s, const uint8_t *tar, size_t size)
{
        struct memsource source = {.data = tar, .len = size, .step = SIZE_MAX};
        struct cas_layer_record layer;
        struct cas_err reason = CAS_ERR_INIT;
        if (cas_layer_import(s, memsource_read, &source, NULL, NULL, &layer, &reason) == 0) {
                listing = layer.listing;
                has_listing = true;
        }
}

static void check_from(struct cas_recipe *r, const uint8_t *tar, size_t size, size_t offset)
{
        cas_cleanup_tarrecipe struct cas_tarrecipe_reader *t = NULL;
        uint8_t piece[777];
        size_t n = 1;
        fuzz_ok(cas_tarrecipe_open(r, offset, &t, err));
        for (size_t at = offset; n > 0; at += n) {
                fuzz_ok(cas_tarrecipe_read(t, piece, sizeof(piece), &n, err));
                cas_assert(n <= size - at);
                cas_assert(n > 0 || at == size);
                cas_assert(n == 0 || memcmp(piece, tar + at, n) == 0);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_store *s = fuzzstore_get();
        static const struct cas_recipe_mark first = {0};
        cas_cleanup_recipe_writer struct cas_recipe_writer w = {0};
        cas_cleanup_recipe struct cas_recipe *r = NULL;
        struct cas_tarrecipe_stats stats;
        if (size == 0)
                return 0;
        unsigned mode = data[0];
        cas_cleanup_free uint8_t *tar = cas_xmalloc(size);
        memcpy(tar, data + 1, --size);
        if (mode & 1)
                tarfix(tar, size);
        if (mode & 2)
                import(s, tar, size);
        struct memsource source = {.data = tar, .len = size, .step = mode & 4 ? 100 : SIZE_MAX};
        cas_recipe_writer_init(&w, s);
        fuzz_ok(cas_tarrecipe_make(s, has_listing && !(mode & 8) ? &listing : NULL, memsource_read,
                                   &source, &w, &stats, err));
        cas_assert(stats.tar_bytes == size && w.head.tar_bytes == size);
        fuzz_ok(cas_recipe_writer_mark(&w, &first, err));
        fuzz_ok(cas_recipe_open_writer(&w, &r, err));
        check_from(r, tar, size, 0);
        check_from(r, tar, size, size);
        check_from(r, tar, size, size * mode / 256);
        check_from(r, tar, size, size - size / (1 + mode / 16));
        return 0;
}
