/* SPDX-License-Identifier: Apache-2.0 */
/* Collection of a store of very many small images: what a run costs after some of them went, and
 * what pushes notice of it.
 *
 *   collect make STORE LAYOUT IMAGES [FROM]
 *       images of the layout as bases, and IMAGES applications on them, from that number on
 *   collect run STORE PERCENT
 *       removes that many of the applications; prints figures as JSON
 *
 * An application is a real layer (the gzip of a tar: what tells of its package, a program of its
 * own, and files that others have as well), a config and a manifest, in a repository of its own.
 * `make` syncs nothing: it is for machines that do not lose power meanwhile. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include "cas/blob.h"
#include "cas/image.h"
#include "cas/layer.h"
#include "cas/maintain.h"
#include "cas/names.h"
#include "cas/tarwrite.h"
#include "cas/transfer.h"

#define TEMPLATES 500
#define DEPENDENCIES 5000
#define DEPENDENCIES_OF_ONE 3
#define FILE_BYTES_MAX 4096
#define BASES_MAX 64
#define PUSH_S 15 /* of pushes without a collection, for comparison */
#define PUSHES_MAX 100000
#define REPO_BYTES 32
#define MAKERS 16 /* they wait for the disk, and share commits */

static bool unsynced;

/* In place of the library's: calls of RocksDB come here, too. */
int fsync(int fd)
{
        return unsynced ? 0 : (int)syscall(SYS_fsync, fd);
}
int fdatasync(int fd)
{
        return unsynced ? 0 : (int)syscall(SYS_fdatasync, fd);
}

static void must(int rc, const char *what, const struct cas_err *err)
{
        if (rc >= 0)
                return;
        (void)fprintf(stderr, "collect: %s: %s\n", what, err->msg);
        exit(1);
}

static double now_s(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double cpu_s(void)
{
        struct rusage u;
        (void)getrusage(RUSAGE_SELF, &u);
        return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
               (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static struct cas_store *store_of(const char *path)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store *s = NULL;
        must(cas_store_open(&(struct cas_store_config){.path = path}, &s, &err), path, &err);
        return s;
}

/* ---- bases ---- */

struct base {
        char *layers;   /* descriptors, each with a comma behind it; owned */
        char *diff_ids; /* the same */
};
static struct base bases[BASES_MAX];
static size_t base_count;

static void take_base(struct cas_store *s, const struct cas_manifest_info *info)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT, config = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf layers = CAS_BUF_INIT, diff_ids = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        cas_cleanup_image_config struct cas_image_config c = {0};
        char text[CAS_DIGEST_TEXT_BYTES];
        must(cas_blob_read(s, &info->digest, CAS_MANIFEST_BYTES_MAX, &bytes, &err), "base", &err);
        must(cas_manifest_parse(bytes.data, bytes.len_bytes, info->media_type, &m, &err), "base",
             &err);
        if (m.kind != CAS_MANIFEST_IMAGE || base_count == BASES_MAX)
                return;
        must(cas_blob_read(s, &m.config.digest, CAS_MANIFEST_BYTES_MAX, &config, &err), "base",
             &err);
        must(cas_image_config_parse(config.data, config.len_bytes, &c, &err), "base", &err);
        for (size_t i = 0; i < m.child_count; i++)
                cas_buf_printf(&layers, "{\"mediaType\":\"%s\",\"digest\":\"%s\",\"size\":%llu},",
                               m.children[i].media_type,
                               cas_digest_text(&m.children[i].digest, text),
                               (unsigned long long)m.children[i].size_bytes);
        for (size_t i = 0; i < c.diff_id_count; i++)
                cas_buf_printf(&diff_ids, "\"%s\",", cas_digest_text(&c.diff_ids[i], text));
        bases[base_count++] = (struct base){.layers = cas_xstrdup(cas_buf_str(&layers)),
                                            .diff_ids = cas_xstrdup(cas_buf_str(&diff_ids))};
}

static void base_imported(void *arg, const struct cas_ref *ref, const struct cas_manifest_info *m)
{
        (void)ref;
        take_base(arg, m);
}

static bool find_base(void *arg, const char *repo)
{
        struct cas_store *s = arg;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_manifest_info info;
        struct cas_ref ref = {.tag = "latest"};
        if (strncmp(repo, "app/", 4) == 0 || strncmp(repo, "push/", 5) == 0)
                return true;
        (void)snprintf(ref.repo, sizeof(ref.repo), "%s", repo);
        if (cas_ref_resolve(s, &ref, &info, &err) == 0)
                take_base(s, &info);
        return true;
}

/* ---- an application ---- */

/* Text that compresses as programs do. */
static void make_text(uint64_t seed, size_t len, struct cas_buf *out)
{
        static const char *const words[] = {"const ",  "return ", "await ", "export ", "function ",
                                            "(req, ",  "res) ",   "=> {\n", "}\n",     "require(",
                                            "'http'",  ");\n",    "let ",   "if (",    "else ",
                                            ".json()", "route",   "model",  "error",   "value"};
        size_t end = out->len_bytes + len;
        cas_buf_printf(out, "// %016llx\n", (unsigned long long)seed);
        while (out->len_bytes < end) {
                seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
                if ((seed >> 60) == 0)
                        cas_buf_printf(out, "v%x ", (unsigned)(seed >> 40) & 0xffff);
                else
                        cas_buf_printf(out, "%s", words[(seed >> 33) % CAS_COUNT(words)]);
        }
        out->len_bytes = end;
}

static void add_file(struct cas_buf *tar, const char *path, const struct cas_buf *content)
{
        struct cas_err err = CAS_ERR_INIT;
        char name[128];
        (void)snprintf(name, sizeof(name), "%s", path);
        const struct cas_entry e = {.type = CAS_ENTRY_FILE,
                                    .path = name,
                                    .mode = 0644,
                                    .mtime_s = 1700000000,
                                    .size_bytes = content->len_bytes};
        must(cas_tarwrite_header(tar, &e, &err), "tar", &err);
        cas_buf_append(tar, content->data, content->len_bytes);
        cas_tarwrite_padding(tar, content->len_bytes);
}

static void add_made(struct cas_buf *tar, const char *path, uint64_t seed)
{
        cas_cleanup_buf struct cas_buf content = CAS_BUF_INIT;
        make_text(seed, 300 + (seed * 2654435761U >> 8) % (FILE_BYTES_MAX - 300), &content);
        add_file(tar, path, &content);
}

static void make_tar(uint64_t number, struct cas_buf *tar)
{
        cas_cleanup_buf struct cas_buf package = CAS_BUF_INIT;
        cas_buf_printf(&package,
                       "{\"name\":\"app-%llu\",\"version\":\"1.0.%llu\",\"main\":\"index.js\"}\n",
                       (unsigned long long)number, (unsigned long long)(number % 40));
        make_text(number, 200, &package);
        add_file(tar, "srv/package.json", &package);
        add_made(tar, "srv/index.js", UINT64_C(1) << 40 | number);
        add_made(tar, "srv/lib/frame.js", UINT64_C(2) << 40 | number % TEMPLATES);
        for (uint64_t i = 0; i < DEPENDENCIES_OF_ONE; i++) {
                char path[64];
                uint64_t which = (number * 31 + i * 7919) % DEPENDENCIES;
                (void)snprintf(path, sizeof(path), "srv/node_modules/d%llu/index.js",
                               (unsigned long long)which);
                add_made(tar, path, UINT64_C(3) << 40 | which);
        }
        cas_tarwrite_end(tar);
}

static void gzip(const struct cas_buf *in, struct cas_buf *out)
{
        z_stream z = {0};
        cas_assert(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
        cas_buf_reserve(out, deflateBound(&z, in->len_bytes));
        z.next_in = in->data;
        z.avail_in = (uInt)in->len_bytes;
        z.next_out = out->data;
        z.avail_out = (uInt)deflateBound(&z, in->len_bytes);
        cas_assert(deflate(&z, Z_FINISH) == Z_STREAM_END);
        out->len_bytes = z.total_out;
        (void)deflateEnd(&z);
}

struct bytes {
        const struct cas_buf *from;
        size_t at;
};
static int give(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct bytes *b = arg;
        (void)err;
        *out_len = cas_min_u64(len, b->from->len_bytes - b->at);
        memcpy(buf, b->from->data + b->at, *out_len);
        b->at += *out_len;
        return 0;
}

static void put_app(struct cas_store *s, const char *repo, uint64_t number)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT, blob = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf config = CAS_BUF_INIT, manifest = CAS_BUF_INIT;
        char text[CAS_DIGEST_TEXT_BYTES];
        const struct base *base = &bases[number % base_count];
        struct cas_layer_record layer;
        struct cas_digest digest;
        struct cas_manifest_info info;
        make_tar(number, &tar);
        gzip(&tar, &blob);
        struct bytes source = {.from = &blob};
        must(cas_layer_import(s, give, &source, NULL, NULL, &layer, &err), "layer", &err);
        cas_buf_printf(
                &config,
                "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"Env\":[\"APP=%llu\"]},"
                "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[%s\"%s\"]}}",
                (unsigned long long)number, base->diff_ids, cas_digest_text(&layer.diff_id, text));
        cas_cleanup_publish struct cas_publish *p = NULL;
        must(cas_publish_begin(s, &p, &err), "config", &err);
        must(cas_publish_blob(p, config.data, config.len_bytes, NULL, &digest, &err), "config",
             &err);
        must(cas_publish_commit(p, &err), "config", &err);
        cas_buf_printf(&manifest,
                       "{\"schemaVersion\":2,\"mediaType\":\"" CAS_MT_OCI_MANIFEST "\","
                       "\"config\":{\"mediaType\":\"" CAS_MT_OCI_CONFIG "\",\"digest\":\"%s\","
                       "\"size\":%zu},",
                       cas_digest_text(&digest, text), config.len_bytes);
        cas_buf_printf(&manifest,
                       "\"layers\":[%s{\"mediaType\":\"" CAS_MT_OCI_LAYER_GZIP
                       "\",\"digest\":\"%s\",\"size\":%zu}]}",
                       base->layers, cas_digest_text(&layer.blob, text), blob.len_bytes);
        const struct cas_manifest_put_options options = {
                .repo = repo, .tag = "latest", .media_type = CAS_MT_OCI_MANIFEST};
        must(cas_manifest_put(s, &options, manifest.data, manifest.len_bytes, &info, &err),
             "manifest", &err);
}

static void app_repo(char out[REPO_BYTES], uint64_t number)
{
        (void)snprintf(out, REPO_BYTES, "app/%llu", (unsigned long long)number);
}

/* ---- make ---- */

struct making {
        struct cas_store *store;
        uint64_t count;
        _Atomic uint64_t next;
        double start_s;
};

static void *make_some(void *arg)
{
        struct making *m = arg;
        for (uint64_t i; (i = atomic_fetch_add(&m->next, 1)) < m->count;) {
                char repo[REPO_BYTES];
                app_repo(repo, i);
                put_app(m->store, repo, i);
                if (i % 10000 == 0)
                        (void)fprintf(stderr, "%llu images, %.0f s\n", (unsigned long long)i,
                                      now_s() - m->start_s);
        }
        return NULL;
}

static int make(const char *path, const char *layout, uint64_t count, uint64_t from)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_transfer_address bases_at = {0};
        pthread_t threads[MAKERS];
        unsynced = true;
        struct making m = {
                .store = store_of(path), .count = count, .next = from, .start_s = now_s()};
        must(cas_transfer_address_parse(layout, &bases_at, &err), layout, &err);
        must(cas_import(m.store, &bases_at, NULL, NULL, base_imported, m.store, &err), layout,
             &err);
        cas_transfer_address_release(&bases_at);
        for (unsigned i = 0; i < MAKERS; i++)
                cas_assert(pthread_create(&threads[i], NULL, make_some, &m) == 0);
        for (unsigned i = 0; i < MAKERS; i++)
                (void)pthread_join(threads[i], NULL);
        cas_store_close(m.store);
        sync();
        return 0;
}

/* ---- run ---- */

struct pushing {
        struct cas_store *store;
        _Atomic bool stop;
        uint64_t first;
        double *ms; /* owned */
        size_t count;
        pthread_t thread;
};

static void *push_on(void *arg)
{
        struct pushing *p = arg;
        for (uint64_t i = p->first; !p->stop && p->count < PUSHES_MAX; i++) {
                char repo[REPO_BYTES];
                double start = now_s();
                (void)snprintf(repo, sizeof(repo), "push/%llu", (unsigned long long)i);
                put_app(p->store, repo, i);
                p->ms[p->count++] = (now_s() - start) * 1000;
        }
        return NULL;
}

static void push_begin(struct pushing *p, struct cas_store *s, uint64_t first)
{
        *p = (struct pushing){
                .store = s, .first = first, .ms = cas_xmalloc(PUSHES_MAX * sizeof(p->ms[0]))};
        cas_assert(pthread_create(&p->thread, NULL, push_on, p) == 0);
}

static int by_value(const void *a, const void *b)
{
        double x = *(const double *)a, y = *(const double *)b;
        return (x > y) - (x < y);
}

static void push_end(struct pushing *p, const char *what)
{
        p->stop = true;
        (void)pthread_join(p->thread, NULL);
        if (p->count > 0) {
                qsort(p->ms, p->count, sizeof(p->ms[0]), by_value);
                printf(",\n \"%s\": {\"count\": %zu, \"p50_ms\": %.2f, \"p99_ms\": %.2f, "
                       "\"max_ms\": %.2f}",
                       what, p->count, p->ms[p->count / 2], p->ms[p->count * 99 / 100],
                       p->ms[p->count - 1]);
        }
        free(p->ms);
}

static void collect(struct cas_store *s, bool full, unsigned duty_percent, const char *what)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_gc_options options = {
                .full = full, .live_percent_min = 50, .duty_percent = duty_percent};
        struct cas_gc_result r;
        struct rusage before, after;
        double start = now_s(), cpu = cpu_s();
        (void)getrusage(RUSAGE_SELF, &before);
        must(cas_gc(s, &options, NULL, &r, &err), what, &err);
        (void)getrusage(RUSAGE_SELF, &after);
        printf(",\n \"%s\": {\"s\": %.3f, \"cpu_s\": %.3f, \"looked_at\": %llu, \"blobs\": %llu, "
               "\"objects\": %llu, \"chunks\": %llu, \"packs_removed\": %llu, \"packs_rewritten\": "
               "%llu, "
               "\"bytes_freed\": %lld, \"peak_rss_mib\": %ld, \"reads\": %ld}",
               what, now_s() - start, cpu_s() - cpu, (unsigned long long)r.looked_at,
               (unsigned long long)r.blobs_removed, (unsigned long long)r.objects_removed,
               (unsigned long long)r.chunks_removed, (unsigned long long)r.packs_removed,
               (unsigned long long)r.packs_rewritten, (long long)r.bytes_freed,
               after.ru_maxrss / 1024, after.ru_inblock - before.ru_inblock);
        (void)fflush(stdout);
}

static uint64_t count_apps(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        uint64_t low = 0, high = 1;
        char repo[REPO_BYTES];
        bool there = true;
        for (; there; high *= 2) {
                app_repo(repo, high);
                must(cas_repo_exists(s, repo, &there, &err), repo, &err);
        }
        while (low + 1 < high) {
                uint64_t middle = (low + high) / 2;
                app_repo(repo, middle);
                must(cas_repo_exists(s, repo, &there, &err), repo, &err);
                *(there ? &low : &high) = middle;
        }
        return low + 1;
}

/* Every n-th application goes. */
static uint64_t remove_apps(struct cas_store *s, uint64_t count, unsigned percent, uint64_t shift)
{
        struct cas_err err = CAS_ERR_INIT;
        uint64_t removed = 0;
        for (uint64_t i = shift; i < count && percent > 0; i += 100 / percent) {
                struct cas_ref ref = {.tag = "latest"};
                struct cas_manifest_info info;
                struct cas_err miss = CAS_ERR_INIT;
                app_repo(ref.repo, i);
                if (cas_ref_resolve(s, &ref, &info, &miss) < 0)
                        continue;
                cas_cleanup_publish struct cas_publish *p = NULL;
                must(cas_publish_begin(s, &p, &err), ref.repo, &err);
                must(cas_publish_manifest_unlink(p, ref.repo, &info.digest, &err), ref.repo, &err);
                must(cas_publish_commit(p, &err), ref.repo, &err);
                removed++;
        }
        return removed;
}

static int run(const char *path, unsigned percent)
{
        struct cas_err err = CAS_ERR_INIT;
        struct pushing pushing;
        struct cas_store *s = store_of(path);
        must(cas_repo_each(s, NULL, find_base, s, &err), "bases", &err);
        uint64_t count = count_apps(s), pushed = UINT64_C(1) << 32;
        printf("{\"applications\": %llu, \"bases\": %zu", (unsigned long long)count, base_count);
        collect(s, false, 0, "settle"); /* what making left */
        unsynced = true;
        printf(",\n \"removed\": %llu", (unsigned long long)remove_apps(s, count, percent, 1));
        unsynced = false;
        collect(s, false, 0, "incremental");
        collect(s, false, 0, "nothing_changed");
        collect(s, true, 0, "full");
        push_begin(&pushing, s, pushed);
        (void)sleep(PUSH_S);
        push_end(&pushing, "pushes_alone");
        unsynced = true;
        (void)remove_apps(s, count, percent, 2);
        unsynced = false;
        push_begin(&pushing, s, pushed + PUSHES_MAX);
        collect(s, false, 25, "incremental_beside_pushes");
        collect(s, true, 25, "full_beside_pushes");
        push_end(&pushing, "pushes_beside_collection");
        printf("}\n");
        cas_store_close(s);
        return 0;
}

int main(int argc, char **argv)
{
        if ((argc == 5 || argc == 6) && strcmp(argv[1], "make") == 0)
                return make(argv[2], argv[3], strtoull(argv[4], NULL, 10),
                            argc == 6 ? strtoull(argv[5], NULL, 10) : 0);
        if (argc == 4 && strcmp(argv[1], "run") == 0)
                return run(argv[2], (unsigned)strtoul(argv[3], NULL, 10));
        (void)fprintf(stderr,
                      "collect make STORE LAYOUT IMAGES [FROM] | collect run STORE PERCENT\n");
        return 2;
}
