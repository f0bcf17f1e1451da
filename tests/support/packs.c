/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/packs.h"

#include <dirent.h>
#include <fcntl.h>
#include <time.h>

#include "cas/blockcache.h"
#include "tests/support/scratch.h"

void test_failed(const char *what, const char *file, int line, const struct cas_err *err)
{
        fprintf(stderr, "%s:%d: %s: %s: %s\n", file, line, what, cas_code_name(err->code),
                err->msg);
        abort();
}

static char *path_in(const struct test_packs *t, const char *name)
{
        return cas_xasprintf("%s/%s", t->dir, name);
}

void test_packs_open(struct test_packs *t)
{
        cas_cleanup_free char *index = path_in(t, "index");
        struct cas_store *s = &t->store;
        s->io = t->io;
        test_ok(cas_index_open(index, true, &s->index, err));
        s->backend = cas_backend_local_new(t->dirfd);
        s->blocks = cas_blockcache_new(1 << 20);
        test_ok(cas_packset_open(s->io, s->backend, s->index, NULL, &s->packset, err));
}

void test_packs_close(struct test_packs *t)
{
        struct cas_store *s = &t->store;
        cas_packset_close(s->packset);
        cas_blockcache_free(s->blocks);
        s->backend->ops->close(s->backend);
        cas_index_close(s->index);
        *s = (struct cas_store){0};
}

void test_packs_init(struct test_packs *t, const struct cas_io *io)
{
        *t = (struct test_packs){.io = io ? io : cas_io_posix()};
        t->dir = scratch_new();
        cas_cleanup_free char *packs = path_in(t, "packs");
        cas_assert(mkdir(packs, 0700) == 0);
        t->dirfd = open(packs, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        cas_assert(t->dirfd >= 0);
        test_packs_open(t);
}

void test_packs_release(struct test_packs *t)
{
        test_packs_close(t);
        (void)close(t->dirfd);
        scratch_free(t->dir);
}

void test_ingest_object(struct cas_ingest *in, const void *data, size_t len, struct cas_hash *id)
{
        test_ok(cas_ingest_object_begin(in, id, err));
        test_ok(cas_ingest_object_write(in, data, len, err));
        test_ok(cas_ingest_object_end(in, err));
}

void test_packs_publish(struct test_packs *t, struct cas_ingest *in)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        test_ok(cas_ingest_flush(in, batch, NULL, err));
        test_ok(cas_index_write(t->store.index, batch, err));
        cas_ingest_published(in);
}

void test_packs_put(struct test_packs *t, const void *data, size_t len, struct cas_hash *id)
{
        struct cas_ingest *in = cas_ingest_new(t->store.packset, NULL);
        test_ingest_object(in, data, len, id);
        test_packs_publish(t, in);
        cas_ingest_free(in);
}

uint64_t test_packs_bytes(struct test_packs *t, unsigned *count)
{
        uint64_t bytes = 0;
        DIR *dir = fdopendir(openat(t->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        cas_assert(dir != NULL);
        *count = 0;
        for (struct dirent *e; (e = readdir(dir));) {
                uint64_t size_bytes;
                if (e->d_name[0] == '.')
                        continue;
                test_ok(cas_io_size(cas_io_posix(), t->dirfd, e->d_name, &size_bytes, err));
                bytes += size_bytes;
                ++*count;
        }
        (void)closedir(dir);
        return bytes;
}

uint64_t test_random_next(struct test_random *r)
{
        uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);
        z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
        return z ^ z >> 31;
}

void test_random_fill(struct test_random *r, uint8_t *out, size_t len)
{
        for (size_t i = 0; i < len; i++) {
                uint64_t word = test_random_next(r);
                out[i] = (uint8_t)(word & 15);
                if ((word & 0xff00) == 0) /* now and then a run */
                        for (uint64_t run = word >> 56; run > 0 && i + 1 < len; run--, i++)
                                out[i + 1] = out[i];
        }
}

uint64_t test_seed(void)
{
        const char *text = getenv("LAMINA_SEED");
        struct timespec now;
        (void)clock_gettime(CLOCK_REALTIME, &now);
        uint64_t seed = text ? strtoull(text, NULL, 0) : (uint64_t)now.tv_nsec;
        printf("LAMINA_SEED=%llu\n", (unsigned long long)seed);
        return seed;
}

static bool go_on(void *arg CAS_UNUSED)
{
        return true;
}

int test_packs_recode(struct test_packs *t, uint64_t pack_id, struct cas_recode_result *out,
                      struct cas_err *err)
{
        const struct cas_recode_hooks hooks = {.yield = go_on};
        struct cas_pack_record rec;
        int rc = cas_index_get_pack(t->store.index, pack_id, &rec, err);
        if (rc < 0)
                return rc;
        struct cas_recoder *recoder = cas_recoder_new(
                t->store.packset, (enum cas_pack_density)rec.density, rec.tier, &hooks);
        rc = cas_recoder_pack(recoder, pack_id, err);
        if (rc == 0)
                rc = cas_recoder_finish(recoder, out, err);
        cas_recoder_free(recoder);
        return rc;
}
