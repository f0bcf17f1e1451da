/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "cas/condense.h"
#include "cas/image.h"
#include "cas/maintain.h"
#include "cas/packset_int.h"
#include "cas/record_int.h"
#include "cas/scrub_int.h"
#include "cas/store_int.h"
#include "cas/tree_int.h"
#include "tests/support/farstore.h"
#include "tests/support/imageworld.h"
#include "tests/support/testimage.h"
#include "tests/support/teststore.h"

#define FILES 12

static void check_ok(int rc, const struct cas_err *err, int line)
{
        if (rc < 0)
                fail_msg("line %d: %s", line, err->msg);
}
#define ok(call) check_ok(call, &err, __LINE__)

static const struct cas_scrub_options from_start = {.from_start = true};

/* ---- shorthands ---- */

struct told {
        struct cas_buf ids;  /* "id id " */
        struct cas_buf text; /* lines, for people */
};

static void told_release(struct told *told)
{
        cas_buf_release(&told->ids);
        cas_buf_release(&told->text);
}
#define cleanup_told __attribute__((cleanup(told_release)))

static void tell(void *arg, enum cas_fsck_severity severity, const char *id, const char *subject,
                 const char *message)
{
        struct told *told = arg;
        if (severity == CAS_FSCK_NOTE || strcmp(id, "pack-garbage") == 0)
                return;
        cas_buf_printf(&told->ids, "%s ", id);
        cas_buf_printf(&told->text, "%s %s: %s\n", id, subject, message);
}

static void expect(struct teststore *t, const char *ids)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        cleanup_told struct told told = {0};
        ok(cas_scrub(t->store, &from_start, NULL, tell, &told, &r, &err));
        if (strcmp(cas_buf_str(&told.ids), ids) != 0)
                print_error("%s", cas_buf_str(&told.text));
        assert_string_equal(cas_buf_str(&told.ids), ids);
}

static struct testimage put(struct cas_store *s, const char *tag, unsigned seed)
{
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image;
        ok(testimage_put(s, "r", tag, seed, FILES, &image, &err));
        return image;
}

static void unlink_image(struct cas_store *s, const struct cas_digest *manifest)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        ok(cas_publish_begin(s, &p, &err));
        ok(cas_publish_manifest_unlink(p, "r", manifest, &err));
        ok(cas_publish_commit(p, &err));
}

/* The only file of a directory of the store whose name ends so; relative to the store. */
static char *file_of(struct teststore *t, const char *dir, const char *end)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", t->path, dir);
        DIR *d = opendir(path);
        char *found = NULL;
        assert_non_null(d);
        for (const struct dirent *e; (e = readdir(d));) {
                size_t len = strlen(e->d_name), end_len = strlen(end);
                if (e->d_name[0] != '.' && len >= end_len &&
                    strcmp(e->d_name + len - end_len, end) == 0 && !found)
                        found = cas_xasprintf("%s/%s", dir, e->d_name);
        }
        (void)closedir(d);
        assert_non_null(found);
        return found;
}

/* Flips a bit; at < 0: from the end. */
static void flip(struct teststore *t, const char *file, off_t at, unsigned bit)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", t->path, file);
        cas_cleanup_fd int fd = -1;
        struct stat st;
        uint8_t byte;
        (void)chmod(path, 0600);
        fd = open(path, O_RDWR | O_CLOEXEC);
        assert_true(fd >= 0 && fstat(fd, &st) == 0);
        if (at < 0)
                at += st.st_size;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= (uint8_t)(1U << bit);
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

static off_t size_of(struct teststore *t, const char *file)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", t->path, file);
        struct stat st;
        assert_int_equal(stat(path, &st), 0);
        return st.st_size;
}

static void write_file(struct teststore *t, const char *file, const char *text)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", t->path, file);
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        (void)fputs(text, f);
        (void)fclose(f);
}

/* ---- every bit ---- */

/* Flips bits all over a file, each found by a pass of its own and gone in the next. */
static void flip_all_over(struct teststore *t, const char *file, unsigned flips,
                          const char *expected)
{
        const uint64_t bits = 8 * (uint64_t)size_of(t, file);
        for (unsigned i = 0; i < flips; i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct cas_fsck_result r;
                cleanup_told struct told told = {0};
                uint64_t bit = bits * i / flips + i % 8;
                flip(t, file, (off_t)(bit / 8), bit % 8);
                ok(cas_scrub(t->store, &from_start, NULL, tell, &told, &r, &err));
                if (!strstr(cas_buf_str(&told.ids), expected))
                        fail_msg("bit %llu of %s: %s", (unsigned long long)bit, file,
                                 cas_buf_str(&told.text));
                flip(t, file, (off_t)(bit / 8), bit % 8);
        }
        expect(t, "");
}

static void bits_of_packs_are_found(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        (void)put(t->store, "one", 1);
        cas_cleanup_free char *pack = file_of(t, "packs", ".pack");
        flip_all_over(t, pack, 16, "pack-damaged");
        ok(cas_packset_seal(t->store->packset, &err));
        flip_all_over(t, pack, 16, "pack-sha256");
        /* The last bytes as well: footer and trailer. */
        for (off_t at = -64; at < 0; at += 5) {
                cleanup_told struct told told = {0};
                struct cas_fsck_result r;
                flip(t, pack, at, 3);
                ok(cas_scrub(t->store, &from_start, NULL, tell, &told, &r, &err));
                assert_non_null(strstr(cas_buf_str(&told.ids), "pack-sha256"));
                flip(t, pack, at, 3);
        }
        expect(t, "");
}

static void bits_of_the_index_are_found(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        (void)put(t->store, "one", 1);
        ok(cas_index_flush(t->store->index, &err));
        expect(t, ""); /* sums are noted */
        cas_cleanup_free char *table = file_of(t, "index", ".sst");
        flip_all_over(t, table, 12, "index-table");
        cas_cleanup_free char *log = file_of(t, "index", ".log");
        flip(t, log, 5, 1);
        expect(t, "index-log ");
        /* What is in the log is in memory. */
        struct cas_fsck_result r;
        const struct cas_scrub_options repair = {.from_start = true, .repair = true};
        ok(cas_scrub(t->store, &repair, NULL, NULL, NULL, &r, &err));
        assert_int_equal(r.errors, 1);
        assert_int_equal(r.repaired, 1);
        expect(t, "");
        flip(t, "index/CURRENT", 10, 0);
        expect(t, "index-log ");
        flip(t, "index/CURRENT", 10, 0);
}

static void a_table_that_changed_wholly_is_found(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        (void)put(t->store, "one", 1);
        ok(cas_index_flush(t->store->index, &err));
        cas_cleanup_free char *table = file_of(t, "index", ".sst");
        cas_cleanup_free char *key = cas_xasprintf("table-sum/%s", table + strlen("index/"));
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        expect(t, "");
        ok(cas_index_get(t->store->index, CAS_FAMILY_META, key, strlen(key), &value, &err));
        value.data[3] ^= 1; /* as if another sound table had its name */
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        cas_batch_put(batch, CAS_FAMILY_META, key, strlen(key), value.data, value.len_bytes);
        ok(cas_index_write(t->store->index, batch, &err));
        expect(t, "index-table ");
        ok(cas_index_compact(t->store->index, &err)); /* that table is gone, its sum is forgotten */
        expect(t, "");
        cas_buf_clear(&value);
        assert_int_equal(
                cas_index_get(t->store->index, CAS_FAMILY_META, key, strlen(key), &value, &err),
                -CAS_E_NOTFOUND);
}

static void bits_of_format_and_journal_are_found(void **state)
{
        struct teststore *t = *state;
        (void)put(t->store, "one", 1);
        off_t bytes = size_of(t, "format");
        for (off_t at = 0; at < bytes; at += 3) {
                flip(t, "format", at, (unsigned)at % 8);
                expect(t, "format-damaged ");
                flip(t, "format", at, (unsigned)at % 8);
        }
        bytes = size_of(t, "journal/names");
        for (off_t at = 0; at < bytes; at += bytes / 16 + 1) {
                flip(t, "journal/names", at, (unsigned)at % 8);
                expect(t, "journal-damaged ");
                flip(t, "journal/names", at, (unsigned)at % 8);
        }
        expect(t, "");
}

/* ---- messages that no other test has ---- */

static void files_without_records(void **state)
{
        struct teststore *t = *state;
        (void)put(t->store, "one", 1);
        write_file(t, "packs/00000000000000aa.pack", "no pack");
        write_file(t, "packs/stray", "");
        write_file(t, "blobs/sha256/00/stray", "");
        write_file(t, "blobs/sha256/stray", "");
        write_file(t, "trees/stray", "");
        write_file(t,
                   "trees/0000000000000000000000000000000000000000000000000000000000000000.erofs",
                   "");
        cleanup_told struct told told = {0};
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        ok(cas_scrub(t->store, &from_start, NULL, tell, &told, &r, &err));
        assert_int_equal(r.errors, 0);
        assert_int_equal(r.warnings, 6);
        for (const char *const *id = (const char *const[]){"pack-unknown pack-unknown ",
                                                           "tree-unknown tree-unknown ",
                                                           "blob-stray blob-stray ", NULL};
             *id; id++)
                assert_non_null(strstr(cas_buf_str(&told.ids), *id));
}

static void trees_are_compared(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image = put(t->store, "one", 1);
        struct cas_tree_ref tree;
        char path[CAS_TREE_PATH_BYTES];
        ok(cas_tree_ensure(t->store, &image.layer, 1, &tree, &err));
        cas_tree_relative_path(&tree.digest, path);
        expect(t, "");
        flip(t, path, -1, 0);
        expect(t, "tree-digest ");
        flip(t, path, -1, 0);
        cas_cleanup_free char *full = cas_xasprintf("%s/%s", t->path, path);
        assert_int_equal(truncate(full, 100), 0);
        expect(t, "tree-digest ");
        assert_int_equal(unlink(full), 0);
        expect(t, "tree-missing ");
}

/* Names of a record that cannot be read, in every family that has values of its own. */
static void malformed_records_are_told(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        (void)put(t->store, "one", 1);
        static const enum cas_family families[] = {
                CAS_FAMILY_PACKS,     CAS_FAMILY_LAYERS,    CAS_FAMILY_BLOBS,  CAS_FAMILY_RECIPES,
                CAS_FAMILY_TREES,     CAS_FAMILY_CHAINS,    CAS_FAMILY_LEASES, CAS_FAMILY_ELSEWHERE,
                CAS_FAMILY_ORDERS,    CAS_FAMILY_TAG_TIMES, CAS_FAMILY_CHUNKS, CAS_FAMILY_OBJECTS,
                CAS_FAMILY_CONDEMNED, CAS_FAMILY_PACK_DEAD,
        };
        for (size_t i = 0; i < CAS_COUNT(families); i++) {
                cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
                cas_batch_put(batch, families[i], "\xff bad", 5, "\xff", 1);
                ok(cas_index_write(t->store->index, batch, &err));
                expect(t, "record-malformed ");
                cas_batch_del(batch, families[i], "\xff bad", 5);
                ok(cas_index_write(t->store->index, batch, &err));
        }
        expect(t, "");
}

static void a_short_pack_and_a_tail(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        (void)put(t->store, "one", 1);
        cas_cleanup_free char *pack = file_of(t, "packs", ".pack");
        cas_cleanup_free char *full = cas_xasprintf("%s/%s", t->path, pack);
        off_t bytes = size_of(t, pack);
        assert_int_equal(truncate(full, bytes - 1), 0);
        struct cas_fsck_result r;
        cleanup_told struct told told = {0};
        ok(cas_scrub(t->store, &from_start, NULL, tell, &told, &r, &err));
        assert_non_null(strstr(cas_buf_str(&told.ids), "pack-short pack-damaged "));
        (void)bytes;
}

/* The blob of a layer decodes to another tar than the record of the layer says. */
static void the_tar_of_a_layer_is_compared(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image = put(t->store, "one", 1);
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        struct cas_layer_record other = image.layer;
        other.diff_id.bytes[0] ^= 1;
        cas_batch_put_layer(batch, &other);
        ok(cas_index_write(t->store->index, batch, &err));
        expect(t, "layer-tar ");
}

/* ---- places ---- */

struct stopper {
        _Atomic(unsigned) left;
};

static bool stop_after(void *arg)
{
        struct stopper *stopper = arg;
        if (stopper->left == 0)
                return true;
        stopper->left--;
        return false;
}

static void a_pass_goes_on_where_it_was(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result whole, part, sum = {0};
        struct cas_scrub_state at;
        for (unsigned i = 0; i < 4; i++) {
                cas_cleanup_free char *tag = cas_xasprintf("tag-%u", i);
                (void)put(t->store, tag, 20 * i);
                ok(cas_packset_seal(t->store->packset, &err));
        }
        ok(cas_scrub(t->store, &from_start, NULL, NULL, NULL, &whole, &err));
        assert_false(whole.stopped);
        ok(cas_scrub_state(t->store, &at, &err));
        assert_int_equal(at.pass, 1);
        assert_string_equal(at.at, "done");
        assert_true(at.ended_unix_s > 0);
        unsigned calls = 0;
        do {
                struct stopper stopper = {.left = 7};
                const struct cas_scrub_options options = {.stop = stop_after, .stop_arg = &stopper};
                if (calls % 3 == 2)
                        teststore_reopen(t);
                ok(cas_scrub(t->store, &options, NULL, NULL, NULL, &part, &err));
                assert_int_equal(part.errors + part.warnings, 0);
                sum.packs += part.packs;
                sum.chunks += part.chunks;
                sum.blobs += part.blobs;
                sum.layers += part.layers;
                sum.names += part.names;
                ok(cas_scrub_state(t->store, &at, &err));
                assert_int_equal(at.pass, part.stopped ? 1 : 2);
                assert_true(++calls < 10000);
        } while (part.stopped);
        assert_true(calls > 5);
        assert_int_equal(sum.packs, whole.packs);
        assert_int_equal(sum.chunks, whole.chunks);
        assert_int_equal(sum.blobs, whole.blobs);
        assert_int_equal(sum.layers, whole.layers);
        assert_int_equal(sum.names, whole.names);
}

/* A process that scrubs slowly is killed; the next goes on, not from the start. */
static void a_killed_pass_goes_on(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_scrub_state at;
        struct cas_fsck_result r;
        for (unsigned i = 0; i < 6; i++) {
                cas_cleanup_free char *tag = cas_xasprintf("tag-%u", i);
                (void)put(t->store, tag, 20 * i);
                ok(cas_packset_seal(t->store->packset, &err));
        }
        teststore_close(t);
        pid_t child = fork();
        if (child == 0) {
                execl("/proc/self/exe", "scrub_test", "slowly", t->path, (char *)NULL);
                _exit(1);
        }
        assert_true(child > 0);
        (void)nanosleep(&(struct timespec){.tv_sec = 5}, NULL);
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(waitpid(child, NULL, 0), child);
        teststore_reopen(t);
        ok(cas_scrub_state(t->store, &at, &err));
        assert_int_equal(at.pass, 0);
        assert_string_equal(at.at, "packs");
        assert_true(at.bytes_checked > 0);
        const struct cas_scrub_options on = {0};
        ok(cas_scrub(t->store, &on, NULL, NULL, NULL, &r, &err));
        assert_int_equal(r.errors, 0);
        assert_true(r.packs > 0 && r.packs < 6);
        ok(cas_scrub_state(t->store, &at, &err));
        assert_int_equal(at.pass, 1);
}

static double seconds(void)
{
        struct timespec now;
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void it_keeps_its_pace(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        struct cas_scrub_state at;
        (void)put(t->store, "one", 1);
        ok(cas_scrub(t->store, &from_start, NULL, NULL, NULL, &r, &err));
        ok(cas_scrub_state(t->store, &at, &err));
        const struct cas_scrub_options paced = {.from_start = true,
                                                .bytes_per_s = at.bytes_checked / 2};
        double began = seconds();
        ok(cas_scrub(t->store, &paced, NULL, NULL, NULL, &r, &err));
        assert_true(seconds() - began > 1.5);
        assert_true(seconds() - began < 20);
}

/* One at a time; who is in a hurry ends a paced pass, which says that it was stopped. */
struct paced {
        struct cas_store *s;
        struct cas_fsck_result r;
        int rc;
};

static void *scrub_slowly(void *arg)
{
        struct paced *paced = arg;
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_scrub_options slow = {.from_start = true, .bytes_per_s = 1000};
        paced->rc = cas_scrub(paced->s, &slow, NULL, NULL, NULL, &paced->r, &err);
        return NULL;
}

static void who_hurries_goes_first(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        pthread_t thread;
        (void)put(t->store, "one", 1);
        struct paced paced = {.s = t->store};
        assert_int_equal(pthread_create(&thread, NULL, scrub_slowly, &paced), 0);
        (void)nanosleep(&(struct timespec){.tv_nsec = 300 * 1000 * 1000}, NULL);
        ok(cas_fsck(t->store, NULL, NULL, NULL, NULL, &r, &err));
        assert_false(r.stopped);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(paced.rc, 0);
        assert_true(paced.r.stopped);
}

/* ---- memory ---- */

static uint64_t peak_kib(void)
{
        FILE *f = fopen("/proc/self/status", "r");
        char line[256];
        unsigned long kib = 0;
        assert_non_null(f);
        while (fgets(line, sizeof(line), f))
                (void)sscanf(line, "VmHWM: %lu kB", &kib);
        (void)fclose(f);
        return kib;
}

static void reset_peak(void)
{
        FILE *f = fopen("/proc/self/clear_refs", "w");
        if (!f || fputs("5", f) < 0 || fclose(f) != 0)
                skip();
}

#define CHUNKS 200000
#define CHUNKS_AT_ONCE 20000

/* Objects of one chunk, in a pack that is not there. */
static void add_objects(struct teststore *t)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        for (uint32_t i = 0; i < CHUNKS; i++) {
                const struct cas_chunk_record rec = {.pack_id = 77,
                                                     .block_offset = 100 * (uint64_t)i,
                                                     .block_stored_bytes = 90,
                                                     .block_raw_bytes = 200,
                                                     .length_bytes = 100};
                struct cas_hash name;
                cas_sha256(&i, sizeof(i), &name);
                cas_batch_put_chunk(batch, &name, &rec);
                cas_batch_put_object(batch, &name, 100, NULL, 1);
                if ((i + 1) % CHUNKS_AT_ONCE == 0)
                        ok(cas_index_write(t->store->index, batch, &err));
        }
        ok(cas_index_flush(t->store->index, &err));
}

static void memory_does_not_grow_with_the_store(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        add_objects(t);
        reset_peak();
        uint64_t before = peak_kib();
        ok(cas_scrub(t->store, &from_start, NULL, NULL, NULL, &r, &err));
        assert_int_equal(r.objects, CHUNKS);
        assert_int_equal(r.errors, CHUNKS); /* each is not where the index says */
#ifdef __SANITIZE_ADDRESS__
        (void)before; /* what is freed is not given back there */
#else
        assert_true(peak_kib() < before + 96 * 1024);
#endif
}

/* Names are compared in parts; nothing is lost between them. */
static void names_are_compared_in_rounds(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        struct cas_scrub_place place = {.pass = 3, .step = "journal", .key = {.len = 8}};
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        char tag[32];
        for (unsigned i = 0; i < 20; i++) {
                (void)snprintf(tag, sizeof(tag), "r%ct-%u", 0, i);
                struct cas_digest d = test_put_manifest(t->store, "r", tag + 2, "a manifest");
                if (i >= 10)
                        continue;
                cas_buf_clear(&value);
                d.bytes[0] ^= 1;
                cas_digest_append(&value, &d);
                cas_batch_put(batch, CAS_FAMILY_TAGS, tag, 2 + strlen(tag + 2), value.data,
                              value.len_bytes);
        }
        cas_put_le32(place.key.bytes, 0);
        cas_put_le32(place.key.bytes + 4, 16); /* rounds */
        cas_buf_clear(&value);
        cas_scrub_place_encode(&place, &value);
        cas_batch_put(batch, CAS_FAMILY_META, "scrub", 5, value.data, value.len_bytes);
        ok(cas_index_write(t->store->index, batch, &err));
        const struct cas_scrub_options on = {0};
        cleanup_told struct told told = {0};
        ok(cas_scrub(t->store, &on, NULL, tell, &told, &r, &err));
        assert_int_equal(r.errors, 10);
        assert_non_null(strstr(cas_buf_str(&told.ids), "journal-differs journal-differs "));
}

/* ---- beside others ---- */

struct traffic {
        struct teststore *t;
        struct farstore *far;
        _Atomic(bool) stop;
        _Atomic(unsigned) rounds;
};

static void *publish_on(void *arg)
{
        struct traffic *traffic = arg;
        for (unsigned i = 0; !traffic->stop; i++) {
                cas_cleanup_free char *tag = cas_xasprintf("t-%u", i % 4);
                struct testimage image = put(traffic->t->store, tag, 7 * (i % 50));
                if (i % 2)
                        unlink_image(traffic->t->store, &image.manifest);
                traffic->rounds++;
        }
        return NULL;
}

static void *collect_on(void *arg)
{
        struct traffic *traffic = arg;
        const struct cas_gc_options options = {.live_percent_min = 90, .full = true};
        while (!traffic->stop) {
                struct cas_err err = CAS_ERR_INIT;
                struct cas_gc_result r;
                ok(cas_gc(traffic->t->store, &options, NULL, &r, &err));
        }
        return NULL;
}

static void *recode_on(void *arg)
{
        struct traffic *traffic = arg;
        for (unsigned i = 0; !traffic->stop; i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct cas_recode_result r;
                uint64_t freed;
                ok(cas_condense_packs(traffic->t->store, CAS_CONDENSE_DEFAULT, NULL, NULL, &r,
                                      &err));
                ok(cas_blob_cache_shrink(traffic->t->store, 0, &freed, &err));
                (void)nanosleep(&(struct timespec){.tv_nsec = 20 * 1000 * 1000}, NULL);
        }
        return NULL;
}

/* An image of the world is pushed, decoded, condensed and deleted. */
static void push_world(struct cas_store *s, const struct world_image *image, const char *tag)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        const struct world_blob *b;
        ok(cas_publish_begin(s, &p, &err));
        for (unsigned i = 0; (b = world_image_blob(image, i)); i++) {
                ok(cas_publish_blob(p, b->bytes.data, b->bytes.len_bytes, &b->digest, NULL, &err));
                ok(cas_publish_blob_link(p, "r", &b->digest, &err));
        }
        const struct world_blob *m = &image->manifest;
        ok(cas_publish_blob(p, m->bytes.data, m->bytes.len_bytes, &m->digest, NULL, &err));
        ok(cas_publish_manifest_link(p, "r", &m->digest, CAS_MT_OCI_MANIFEST, m->bytes.len_bytes,
                                     &err));
        ok(cas_publish_tag(p, "r", tag, &m->digest, &err));
        ok(cas_publish_commit(p, &err));
}

static void *condense_on(void *arg)
{
        struct traffic *traffic = arg;
        struct cas_store *s = traffic->t->store;
        const struct world *world = world_get();
        for (unsigned i = 0; !traffic->stop; i++) {
                struct cas_err err = CAS_ERR_INIT;
                const struct world_image *image = &world->images[i % WORLD_IMAGES];
                const struct cas_condense_options options = {.again = true, .threads = 1};
                const struct world_blob *b;
                push_world(s, image, "world");
                for (unsigned k = 1; (b = world_image_blob(image, k)); k++) {
                        struct cas_recipe_record rec;
                        ok(cas_condense_blob(s, &b->digest, &options, NULL, &rec, &err));
                }
                if (i % 3 == 0)
                        unlink_image(s, &image->manifest.digest);
        }
        return NULL;
}

static void *bring_on(void *arg)
{
        struct traffic *traffic = arg;
        for (unsigned i = 0; !traffic->stop; i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct testimage image;
                struct cas_layer_record layer;
                cas_cleanup_free char *tag = cas_xasprintf("far-%u", i % 3);
                farstore_image(traffic->far, "far", tag, 1000 + 5 * (i % 20), 5, &image);
                struct cas_hash id = farstore_file(traffic->far, &image, 3);
                ok(cas_elsewhere_bring(traffic->t->store, &id, 60000, &err));
                if (i % 2)
                        ok(cas_layer_ensure(traffic->t->store, &image.layer.blob, NULL, &layer,
                                            &err));
        }
        return NULL;
}

static void nothing_is_told_of_work(void **state)
{
        struct teststore *t = *state;
        struct farstore far;
        farstore_open(&far, t, 60000);
        struct traffic traffic = {.t = t, .far = &far};
        void *(*const work[])(void *) = {publish_on, collect_on, recode_on, condense_on, bring_on};
        pthread_t threads[CAS_COUNT(work)];
        (void)world_get();
        for (size_t i = 0; i < CAS_COUNT(work); i++)
                assert_int_equal(pthread_create(&threads[i], NULL, work[i], &traffic), 0);
        double until = seconds() + 8;
        unsigned passes = 0;
        cleanup_told struct told told = {0};
        for (; seconds() < until || passes < 3; passes++) {
                struct cas_err err = CAS_ERR_INIT;
                struct cas_fsck_result r;
                ok(cas_fsck(t->store, NULL, NULL, tell, &told, &r, &err));
        }
        traffic.stop = true;
        for (size_t i = 0; i < CAS_COUNT(work); i++)
                assert_int_equal(pthread_join(threads[i], NULL), 0);
        print_message("%u passes beside %u publications\n", passes, (unsigned)traffic.rounds);
        if (told.ids.len_bytes)
                fail_msg("%s", cas_buf_str(&told.text));
        expect(t, "");
        farstore_close(&far);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, teststore_setup, teststore_teardown)

/* The process that is killed. */
static int scrub_store_slowly(const char *path)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        cas_cleanup_store struct cas_store *s = NULL;
        const struct cas_scrub_options slow = {.bytes_per_s = 2 << 20};
        int rc = cas_store_open(&(struct cas_store_config){.path = path}, &s, &err);
        if (rc == 0)
                rc = cas_scrub(s, &slow, NULL, NULL, NULL, &r, &err);
        if (rc < 0)
                (void)fprintf(stderr, "%s\n", err.msg);
        return rc < 0;
}

int main(int argc, char **argv)
{
        if (argc == 3 && strcmp(argv[1], "slowly") == 0)
                return scrub_store_slowly(argv[2]);
        const struct CMUnitTest tests[] = {
                TEST(bits_of_packs_are_found),
                TEST(bits_of_the_index_are_found),
                TEST(a_table_that_changed_wholly_is_found),
                TEST(bits_of_format_and_journal_are_found),
                TEST(files_without_records),
                TEST(trees_are_compared),
                TEST(malformed_records_are_told),
                TEST(a_short_pack_and_a_tail),
                TEST(the_tar_of_a_layer_is_compared),
                TEST(a_pass_goes_on_where_it_was),
                TEST(a_killed_pass_goes_on),
                TEST(it_keeps_its_pace),
                TEST(who_hurries_goes_first),
                TEST(memory_does_not_grow_with_the_store),
                TEST(names_are_compared_in_rounds),
                TEST(nothing_is_told_of_work),
        };
        if (argc == 2)
                cmocka_set_test_filter(argv[1]);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
