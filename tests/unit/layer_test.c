/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/wait.h>
#include <zlib.h>

#include "cas/decompress.h"
#include "cas/layer.h"
#include "cas/object.h"
#include "cas/verity.h"
#include "tests/support/memsource.h"
#include "tests/support/tarmake.h"
#include "tests/support/teststore.h"

#define GOOD "tests/golden/layer"
#define BAD "tests/golden-fail/layer"

static int import(struct cas_store *s, const struct cas_buf *bytes,
                  const struct cas_digest *expected, struct cas_layer_record *rec,
                  struct cas_err *err)
{
        struct memsource source = {.data = bytes->data, .len = bytes->len_bytes, .step = 10000};
        return cas_layer_import(s, memsource_read, &source, expected, NULL, rec, err);
}

static void load(const char *dir, const char *name, struct cas_buf *out)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", dir, name);
        if (cas_io_read_file(cas_io_posix(), AT_FDCWD, path, 16 << 20, out, &err) < 0)
                fail_msg("%s: %s", path, err.msg);
}

static void gzip(const struct cas_buf *plain, struct cas_buf *out)
{
        z_stream z = {.next_in = plain->data, .avail_in = (uInt)plain->len_bytes};
        assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
        size_t bound = deflateBound(&z, plain->len_bytes);
        cas_buf_reserve(out, bound);
        z.next_out = out->data;
        z.avail_out = (uInt)bound;
        assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
        out->len_bytes = z.total_out;
        (void)deflateEnd(&z);
}

/* A tar with an object of `size` bytes, a small file and a sparse one. */
static void make_tar(struct cas_buf *out, size_t size, uint8_t seed)
{
        cas_cleanup_buf struct cas_buf big = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf sparse = CAS_BUF_INIT;
        for (size_t i = 0; i < size; i++)
                cas_buf_append_byte(&big, (uint8_t)(i * 7 + (i >> 9) + seed));
        struct tarmake h = {.name = "big", .size = size, .mode = 0644};
        tarmake_header(out, &h);
        tarmake_data(out, big.data, size);
        tarmake_file(out, "small", "tiny");
        tarmake_record(&sparse, "GNU.sparse.map", "0,2,1000000,2", 13);
        tarmake_record(&sparse, "GNU.sparse.size", "1000002", 7);
        tarmake_extension(out, 'x', sparse.data, sparse.len_bytes);
        tarmake_file(out, "sparse", "abcd");
        tarmake_end(out);
        cas_buf_append_str(out, "bytes that follow");
}

static void an_imported_layer_is_there_whole(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf stored = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf content = CAS_BUF_INIT;
        cas_cleanup_listing struct cas_listing l = {0};
        struct cas_layer_record rec, again;
        struct cas_digest blob, diff_id;
        struct cas_hash verity;
        make_tar(&tar, 700000, 1);
        gzip(&tar, &stored);
        cas_digest_of(CAS_DIGEST_SHA256, stored.data, stored.len_bytes, &blob);
        cas_digest_of(CAS_DIGEST_SHA256, tar.data, tar.len_bytes, &diff_id);
        assert_int_equal(import(t->store, &stored, &blob, &rec, &err), 0);
        teststore_reopen(t);
        assert_int_equal(cas_layer_stat(t->store, &blob, &again, &err), 0);
        assert_memory_equal(&rec.listing, &again.listing, sizeof(rec.listing));
        assert_true(cas_digest_equal(&again.blob, &blob));
        assert_true(cas_digest_equal(&again.diff_id, &diff_id));
        assert_int_equal(again.tar_bytes, tar.len_bytes);
        assert_int_equal(again.content_bytes, 700000 + 4 + 1000002);
        assert_int_equal(again.entry_count, 3);
        assert_int_equal(again.compression, CAS_COMPRESSION_GZIP);
        assert_int_equal(cas_blob_read(t->store, &blob, 1 << 24, &content, &err), 0);
        assert_int_equal(content.len_bytes, stored.len_bytes);

        assert_int_equal(cas_layer_listing(t->store, &again, &l, &err), 0);
        assert_int_equal(l.count, 3);
        assert_string_equal(l.entries[0].path, "big");
        cas_verity_of(tar.data + 512, 700000, &verity);
        assert_true(cas_hash_equal(&l.entries[0].object, &verity));
        assert_memory_equal(l.entries[1].inline_data, "tiny", 4);
        cas_buf_clear(&content);
        assert_int_equal(cas_object_read(t->store, &l.entries[2].object, 1 << 24, &content, &err),
                         0);
        assert_int_equal(content.len_bytes, 1000002);
        assert_memory_equal(content.data, "ab\0\0", 4);
        assert_memory_equal(content.data + 999998, "\0\0cd", 4);
}

static void a_stored_blob_is_decoded_on_demand(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct cas_layer_record ensured, imported;
        struct cas_digest blob, unknown = test_digest("unknown");
        make_tar(&tar, 5000, 2);
        assert_int_equal(cas_publish_begin(t->store, &p, &err), 0);
        assert_int_equal(cas_publish_blob(p, tar.data, tar.len_bytes, NULL, &blob, &err), 0);
        assert_int_equal(cas_publish_commit(p, &err), 0);
        assert_int_equal(cas_layer_stat(t->store, &blob, &ensured, &err), -CAS_E_NOTFOUND);
        assert_int_equal(cas_layer_ensure(t->store, &unknown, NULL, &ensured, &err),
                         -CAS_E_NOTFOUND);
        assert_int_equal(cas_layer_ensure(t->store, &blob, NULL, &ensured, &err), 0);
        assert_int_equal(ensured.compression, CAS_COMPRESSION_NONE);
        assert_true(cas_digest_equal(&ensured.diff_id, &blob));
        assert_int_equal(import(t->store, &tar, NULL, &imported, &err), 0);
        assert_memory_equal(&imported.listing, &ensured.listing, sizeof(imported.listing));
}

struct ensure {
        struct cas_store *store;
        struct cas_digest blob;
        struct cas_layer_record rec;
        int ret;
};

static void *ensure_thread(void *arg)
{
        struct ensure *e = arg;
        struct cas_err err = CAS_ERR_INIT;
        e->ret = cas_layer_ensure(e->store, &e->blob, NULL, &e->rec, &err);
        return NULL;
}

static void many_may_ask_at_once(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct cas_digest blobs[2];
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        make_tar(&tar, 3000000, 3);
        assert_int_equal(cas_publish_begin(t->store, &p, &err), 0);
        assert_int_equal(cas_publish_blob(p, tar.data, tar.len_bytes, NULL, &blobs[0], &err), 0);
        assert_int_equal(cas_publish_blob(p, tar.data, 3000, NULL, &blobs[1], &err), 0);
        assert_int_equal(cas_publish_commit(p, &err), 0);
        struct ensure e[8];
        pthread_t threads[8];
        for (size_t i = 0; i < CAS_COUNT(e); i++) {
                e[i] = (struct ensure){.store = t->store, .blob = blobs[i % 2]};
                assert_int_equal(pthread_create(&threads[i], NULL, ensure_thread, &e[i]), 0);
        }
        for (size_t i = 0; i < CAS_COUNT(e); i++) {
                assert_int_equal(pthread_join(threads[i], NULL), 0);
                assert_int_equal(e[i].ret, i % 2 ? -CAS_E_CORRUPT : 0);
                if (i % 2 == 0)
                        assert_memory_equal(&e[i].rec.listing, &e[0].rec.listing,
                                            sizeof(e[0].rec.listing));
        }
}

static void assert_store_holds(struct teststore *t, const struct cas_store_stats *want)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store_stats now;
        assert_int_equal(cas_store_stats(t->store, &now, &err), 0);
        assert_int_equal(now.blob_count, want->blob_count);
        assert_int_equal(now.object_count, want->object_count);
        assert_int_equal(now.chunk_count, want->chunk_count);
        assert_int_equal(now.layer_count, want->layer_count);
}

/* The code that the name of a file begins with. */
static enum cas_code code_of(const char *name)
{
        char text[32] = "";
        for (size_t i = 0; i < sizeof(text) - 1 && name[i] && name[i] != '-'; i++)
                text[i] = (char)(name[i] - 'a' + 'A');
        return cas_code_by_name(text);
}

static void bad_layers_leave_the_store_as_it_was(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store_stats before;
        struct cas_layer_record rec;
        cas_cleanup_buf struct cas_buf good = CAS_BUF_INIT;
        make_tar(&good, 5000, 4);
        assert_int_equal(import(t->store, &good, NULL, &rec, &err), 0);
        assert_int_equal(cas_store_stats(t->store, &before, &err), 0);
        DIR *dir = opendir(BAD);
        assert_non_null(dir);
        unsigned count = 0;
        for (struct dirent *d; (d = readdir(dir));) {
                cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
                struct cas_err why = CAS_ERR_INIT;
                if (!strstr(d->d_name, ".tar"))
                        continue;
                load(BAD, d->d_name, &bytes);
                assert_int_not_equal(code_of(d->d_name), CAS_OK);
                int ret = import(t->store, &bytes, NULL, &rec, &why);
                if (ret != -(int)code_of(d->d_name))
                        fail_msg("%s: %d %s", d->d_name, ret, why.msg);
                count++;
        }
        (void)closedir(dir);
        assert_true(count > 30);
        assert_store_holds(t, &before);
        struct cas_digest wrong = test_digest("wrong");
        cas_buf_append_byte(&good, 'x');
        assert_int_equal(import(t->store, &good, &wrong, &rec, &err), -CAS_E_INVALID);
        assert_store_holds(t, &before);
        teststore_reopen(t);
        assert_store_holds(t, &before);
}

static int source_that_breaks(void *arg, void *buf, size_t len, size_t *out_len,
                              struct cas_err *err)
{
        struct memsource *s = arg;
        if (s->at > s->len / 2)
                return cas_fail(err, CAS_E_IO, "the line is cut");
        return memsource_read(s, buf, len, out_len, err);
}

static void errors_of_the_source_pass(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store_stats before;
        struct cas_layer_record rec;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        make_tar(&tar, 3000000, 5);
        struct memsource source = {.data = tar.data, .len = tar.len_bytes, .step = 10000};
        assert_int_equal(cas_store_stats(t->store, &before, &err), 0);
        assert_int_equal(
                cas_layer_import(t->store, source_that_breaks, &source, NULL, NULL, &rec, &err),
                -CAS_E_IO);
        assert_non_null(strstr(err.msg, "the line is cut"));
        assert_store_holds(t, &before);
}

/* A damaged blob is found even where the stream has no checksum. */
static void a_damaged_blob_is_found(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_layer_record rec;
        struct cas_digest blob;
        char hex[CAS_DIGEST_TEXT_BYTES];
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        make_tar(&tar, 5000, 6);
        assert_int_equal(cas_publish_begin(t->store, &p, &err), 0);
        assert_int_equal(cas_publish_blob(p, tar.data, tar.len_bytes, NULL, &blob, &err), 0);
        assert_int_equal(cas_publish_commit(p, &err), 0);
        cas_digest_hex(&blob, hex);
        cas_cleanup_free char *path = cas_xasprintf("%s/blobs/sha256/%.2s/%s", t->path, hex, hex);
        (void)chmod(path, 0600);
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        assert_int_equal(pwrite(fd, "!", 1, 600), 1);
        assert_int_equal(cas_layer_ensure(t->store, &blob, NULL, &rec, &err), -CAS_E_CORRUPT);
        assert_non_null(strstr(err.msg, "another digest"));
        assert_int_equal(cas_layer_stat(t->store, &blob, &rec, &err), -CAS_E_NOTFOUND);
}

/* Runs a program; its output is appended. False when there is no such program. */
static bool run(const char *const argv[], struct cas_buf *out)
{
        int fds[2], status = 0;
        assert_int_equal(pipe(fds), 0);
        pid_t pid = fork();
        if (pid == 0) {
                (void)dup2(fds[1], STDOUT_FILENO);
                (void)close(fds[0]);
                (void)execvp(argv[0], (char *const *)(uintptr_t)argv);
                _exit(127);
        }
        (void)close(fds[1]);
        char piece[4096];
        for (ssize_t n; (n = read(fds[0], piece, sizeof(piece))) > 0;)
                cas_buf_append(out, piece, (size_t)n);
        (void)close(fds[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
                return false;
        assert_int_equal(status, 0);
        return true;
}

static void the_odd_layer_has_its_golden_listing(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_layer_record rec;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf got = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf want = CAS_BUF_INIT;
        load(GOOD, "odd.tar", &tar);
        load(GOOD, "odd.listing", &want);
        assert_int_equal(import(t->store, &tar, NULL, &rec, &err), 0);
        assert_int_equal(cas_object_read(t->store, &rec.listing, 1 << 20, &got, &err), 0);
        assert_int_equal(got.len_bytes, want.len_bytes);
        assert_memory_equal(got.data, want.data, want.len_bytes);
}

/* By a decoder that knows the specification only. */
static void the_golden_listing_says_what_it_should(void **state)
{
        (void)state;
        static const char *const argv[] = {"python3", "tests/support/listing.py",
                                           GOOD "/odd.listing", NULL};
        cas_cleanup_buf struct cas_buf got = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf want = CAS_BUF_INIT;
        load(GOOD, "odd.txt", &want);
        if (!run(argv, &got))
                skip();
        assert_string_equal(cas_buf_str(&got), cas_buf_str(&want));
}

static void a_layer_without_bytes_is_empty(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_layer_record rec;
        cas_cleanup_listing struct cas_listing l = {0};
        cas_cleanup_buf struct cas_buf none = CAS_BUF_INIT;
        assert_int_equal(import(t->store, &none, NULL, &rec, &err), 0);
        assert_int_equal(rec.tar_bytes, 0);
        assert_int_equal(rec.entry_count, 0);
        assert_int_equal(cas_layer_listing(t->store, &rec, &l, &err), 0);
        assert_int_equal(l.count, 0);
}

int main(void)
{
#define with_store(test) cmocka_unit_test_setup_teardown(test, teststore_setup, teststore_teardown)
        const struct CMUnitTest tests[] = {
                with_store(an_imported_layer_is_there_whole),
                with_store(a_stored_blob_is_decoded_on_demand),
                with_store(many_may_ask_at_once),
                with_store(bad_layers_leave_the_store_as_it_was),
                with_store(errors_of_the_source_pass),
                with_store(a_damaged_blob_is_found),
                with_store(a_layer_without_bytes_is_empty),
                with_store(the_odd_layer_has_its_golden_listing),
                cmocka_unit_test(the_golden_listing_says_what_it_should),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
