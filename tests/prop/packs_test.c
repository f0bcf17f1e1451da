/* SPDX-License-Identifier: Apache-2.0 */
/* Random publications, several at a time, some dropped, with restarts, sealing and rewriting in
 * between: what was published comes back byte for byte, and no chunk is stored twice unless
 * something was dropped. The seed is printed; LAMINA_SEED repeats it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "cas/chunker.h"
#include "cas/packwriter_int.h"
#include "cas/verity.h"
#include "tests/support/packs.h"

#define FILES_MAX 400
#define INGESTS 3

/* Content that can be made again: bytes of a stream, one of them changed. */
struct recipe {
        uint64_t stream;
        size_t start, len, change_at;
};
struct file {
        struct recipe recipe;
        struct cas_hash id;
        int ingest; /* that it waits in; -1: published; -2: dropped */
};

struct world {
        struct test_packs t;
        struct test_random random;
        struct cas_ingest *ingests[INGESTS];
        struct file files[FILES_MAX];
        unsigned file_count;
        bool exact;             /* nothing was dropped or rewritten so far */
        struct cas_map *chunks; /* distinct ones */
        uint64_t chunk_bytes;
};

static uint64_t below(struct world *w, uint64_t n)
{
        return test_random_next(&w->random) % n;
}

static uint8_t *make_content(const struct recipe *r)
{
        struct test_random stream = {r->stream};
        cas_cleanup_free uint8_t *all = cas_xmalloc(r->start + r->len + 1);
        uint8_t *data = cas_xmalloc(r->len + 1);
        test_random_fill(&stream, all, r->start + r->len);
        memcpy(data, all + r->start, r->len);
        if (r->len)
                data[r->change_at % r->len] ^= 0xff;
        return data;
}

static struct recipe random_recipe(struct world *w)
{
        static const size_t scales[] = {1, 100, 5000, 60000, 300000, 2000000};
        size_t scale = scales[below(w, CAS_COUNT(scales))];
        if (w->file_count && below(w, 4) == 0)
                return w->files[below(w, w->file_count)].recipe;
        return (struct recipe){.stream = below(w, 3),
                               .start = below(w, 3) * 777,
                               .len = below(w, scale + 1),
                               .change_at = below(w, 2) * 1000000};
}

static void count_chunk(struct world *w, const struct cas_hash *name, size_t len)
{
        bool is_new;
        (void)cas_map_put(w->chunks, name->bytes, CAS_HASH_BYTES, &is_new);
        w->chunk_bytes += is_new ? len : 0;
}

static void count_chunks(struct world *w, const uint8_t *data, size_t len)
{
        struct cas_hash name;
        if (len <= CAS_CHUNK_SMALL_BYTES_MAX) {
                cas_verity_of(data, len, &name);
                if (len)
                        count_chunk(w, &name, len);
                return;
        }
        for (size_t at = 0; at < len;) {
                size_t n = cas_chunker_cut(data + at, len - at);
                cas_sha256(data + at, n, &name);
                count_chunk(w, &name, n);
                at += n;
        }
}

static void add_file(struct world *w)
{
        int which = (int)below(w, INGESTS);
        if (w->file_count == FILES_MAX)
                return;
        struct recipe recipe = random_recipe(w);
        struct file *f = &w->files[w->file_count++];
        *f = (struct file){.recipe = recipe, .ingest = which};
        cas_cleanup_free uint8_t *data = make_content(&recipe);
        count_chunks(w, data, recipe.len);
        if (!w->ingests[which])
                w->ingests[which] = cas_ingest_new(w->t.store.packset, NULL);
        test_ok(cas_ingest_object_begin(w->ingests[which], &f->id, err));
        for (size_t at = 0; at < recipe.len;) {
                size_t n = cas_min_u64(1 + below(w, 200000), recipe.len - at);
                test_ok(cas_ingest_object_write(w->ingests[which], data + at, n, err));
                at += n;
        }
        test_ok(cas_ingest_object_end(w->ingests[which], err));
}

static void end_ingest(struct world *w, int which, bool publish)
{
        if (!w->ingests[which])
                return;
        /* While all workers rest no chunk can be missed by two of them at once. */
        for (int i = 0; i < INGESTS; i++)
                if (w->ingests[i])
                        test_ok(cas_ingest_drain(w->ingests[i], err));
        if (publish)
                test_packs_publish(&w->t, w->ingests[which]);
        cas_ingest_free(w->ingests[which]);
        w->ingests[which] = NULL;
        for (unsigned i = 0; i < w->file_count; i++)
                if (w->files[i].ingest == which)
                        w->files[i].ingest = publish ? -1 : -2;
        w->exact = w->exact && publish;
}

static void end_all(struct world *w)
{
        for (int i = 0; i < INGESTS; i++)
                end_ingest(w, i, true);
}

static int sum_blocks(void *arg, const struct cas_pack_item *item, struct cas_err *err CAS_UNUSED)
{
        *(uint64_t *)arg += item->kind == CAS_PACK_BLOCK ? item->block.block_raw_bytes : 0;
        return 0;
}

struct pack_list {
        uint64_t ids[FILES_MAX];
        unsigned count;
};

static bool list_pack(void *arg, uint64_t pack_id, const struct cas_pack_record *rec CAS_UNUSED)
{
        struct pack_list *list = arg;
        list->ids[list->count++] = pack_id;
        return list->count < FILES_MAX;
}

static struct pack_list packs_of(struct world *w)
{
        struct pack_list list = {.count = 0};
        test_ok(cas_index_each_pack(w->t.store.index, list_pack, &list, err));
        return list;
}

static void check_world(struct world *w)
{
        struct pack_list list = packs_of(w);
        uint64_t stored = 0;
        for (unsigned i = 0; i < list.count; i++) {
                uint64_t end;
                bool sealed;
                int fd;
                test_ok(cas_packset_open_pack(w->t.store.packset, list.ids[i], &fd, err));
                test_ok(cas_pack_walk(w->t.io, fd, list.ids[i], sum_blocks, &stored, &end, &sealed,
                                      err));
                (void)close(fd);
        }
        if (w->exact)
                assert_int_equal(stored, w->chunk_bytes);
        for (unsigned i = 0; i < w->file_count; i++) {
                const struct file *f = &w->files[i];
                cas_cleanup_buf struct cas_buf got = CAS_BUF_INIT;
                if (f->ingest != -1)
                        continue;
                cas_cleanup_free uint8_t *data = make_content(&f->recipe);
                test_ok(cas_object_read(&w->t.store, &f->id, f->recipe.len, &got, err));
                assert_int_equal(got.len_bytes, f->recipe.len);
                if (f->recipe.len)
                        assert_memory_equal(got.data, data, f->recipe.len);
        }
}

static void rewrite_one(struct world *w)
{
        struct pack_list list = packs_of(w);
        struct cas_recode_result recoded;
        if (list.count)
                test_ok(test_packs_recode(&w->t, list.ids[below(w, list.count)], &recoded, err));
}

static void step(struct world *w)
{
        switch (below(w, 40)) {
        case 0:
        case 1:
        case 2:
                end_ingest(w, (int)below(w, INGESTS), true);
                break;
        case 3:
                end_ingest(w, (int)below(w, INGESTS), false);
                break;
        case 4:
                end_all(w);
                test_packs_close(&w->t);
                test_packs_open(&w->t);
                break;
        case 5:
                end_all(w);
                test_ok(cas_packset_seal(w->t.store.packset, err));
                break;
        case 6:
                end_all(w);
                rewrite_one(w);
                break;
        default:
                add_file(w);
                break;
        }
}

static void what_was_published_comes_back(void **state CAS_UNUSED)
{
        uint64_t seed = test_seed();
        for (unsigned round = 0; round < 6; round++) {
                static struct world w;
                w = (struct world){.random = {seed + round}, .exact = true};
                w.chunks = cas_map_new();
                test_packs_init(&w.t, NULL);
                for (unsigned i = 0; i < 60 + 60 * round; i++)
                        step(&w);
                end_all(&w);
                check_world(&w);
                test_packs_close(&w.t);
                test_packs_open(&w.t);
                check_world(&w);
                test_packs_release(&w.t);
                cas_map_free(w.chunks);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {cmocka_unit_test(what_was_published_comes_back)};
        return cmocka_run_group_tests_name("packs", tests, NULL, NULL);
}
