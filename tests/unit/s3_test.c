/* SPDX-License-Identifier: Apache-2.0 */
/* The S3 client against a store that does what it should: tests/support/badbucket.py without
 * faults, or the one that $LAMINA_S3_ENDPOINT tells (tests/long/s3_gateway.py: Ceph's). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <curl/curl.h>
#include <sys/mman.h>

#include "tests/support/s3server.h"
#include "tiering/bucket.h"
#include "tiering/s3_int.h"

#define MIB ((size_t)1024 * 1024)
#define KEYS 1200

struct fixture {
        struct s3server *server;
        struct s3 *s3;
        struct s3_abilities abilities;
        char prefix[64];
};

static int setup(void **state)
{
        struct fixture *f = cas_xcalloc(1, sizeof(*f));
        struct cas_err err = CAS_ERR_INIT;
        f->server = s3server_start();
        (void)snprintf(f->prefix, sizeof(f->prefix), "test-%d/in it", (int)getpid());
        struct s3_config config = s3server_config(f->server);
        config.prefix = f->prefix;
        config.part_bytes = 5 * MIB;
        assert_int_equal(s3_open(&config, &f->s3, &err), 0);
        if (s3_probe(f->s3, &f->abilities, &err) < 0)
                fail_msg("%s", err.msg);
        const struct s3_abilities *a = &f->abilities;
        print_message("abilities: if-absent %d, if-match %d, multipart-if-absent %d, "
                      "conditional-delete %d, checksums %d, ranges %d, list-after-write %d, "
                      "bare-etags %d\n",
                      a->if_absent, a->if_match, a->multipart_if_absent, a->conditional_delete,
                      a->checksums, a->ranges, a->list_after_write, a->bare_etags);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        s3_close(f->s3);
        s3server_stop(f->server);
        free(f);
        return 0;
}

#define OK(call)                                                                                   \
        do {                                                                                       \
                if ((call) < 0)                                                                    \
                        fail_msg("%s: %s", #call, err.msg);                                        \
        } while (0)

static void probes(void **state)
{
        struct fixture *f = *state;
        assert_true(f->abilities.ranges);
        assert_true(f->abilities.list_after_write);
        if (!s3server_is_bad(f->server))
                return;
        assert_true(f->abilities.if_absent && f->abilities.if_match);
        assert_true(f->abilities.multipart_if_absent && f->abilities.conditional_delete);
        assert_true(f->abilities.checksums);
}

/* Each ability is seen to be missing where it is. */
static void probes_what_is_missing(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct s3_abilities a;
        if (!s3server_is_bad(f->server))
                skip();
        s3server_set(f->server, "{\"conditions\": false, \"conditional_delete\": false, "
                                "\"checksums\": false, \"ranges\": false, \"stale_list_s\": 60}");
        OK(s3_probe(f->s3, &a, &err));
        assert_false(a.if_absent || a.if_match || a.multipart_if_absent || a.conditional_delete ||
                     a.checksums || a.ranges || a.list_after_write);
        assert_int_equal(s3_delete(f->s3, "x", "\"1\"", &err), -CAS_E_UNSUPPORTED);
        s3server_set(f->server, "{\"conditions\": true, \"multipart_conditions\": false, "
                                "\"conditional_delete\": true, \"checksums\": true, "
                                "\"ranges\": true, \"stale_list_s\": 0}");
        OK(s3_probe(f->s3, &a, &err));
        assert_true(a.if_absent && a.if_match && a.conditional_delete && a.ranges && a.checksums);
        assert_false(a.multipart_if_absent);
        s3server_set(f->server, "{\"multipart_conditions\": true}");
        OK(s3_probe(f->s3, &f->abilities, &err));
}

static void puts_and_gets(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        struct s3_object put, got;
        OK(s3_put(f->s3, "a/b", "hello", 5, NULL, &put, &err));
        OK(s3_get(f->s3, "a/b", 100, &body, &got, &err));
        assert_string_equal(cas_buf_str(&body), "hello");
        assert_int_equal(got.size_bytes, 5);
        assert_string_equal(got.etag, put.etag);
        assert_true(got.modified_unix_s > 1500000000);
        OK(s3_head(f->s3, "a/b", &got, &err));
        assert_int_equal(got.size_bytes, 5);
        assert_string_equal(got.etag, put.etag);

        bool changed = true;
        OK(s3_get_changed(f->s3, "a/b", put.etag, 100, &body, &got, &changed, &err));
        assert_false(changed);
        OK(s3_put(f->s3, "a/b", "another", 7, NULL, NULL, &err));
        cas_buf_clear(&body);
        OK(s3_get_changed(f->s3, "a/b", put.etag, 100, &body, &got, &changed, &err));
        assert_true(changed);
        assert_string_equal(cas_buf_str(&body), "another");

        OK(s3_delete(f->s3, "a/b", NULL, &err));
        OK(s3_delete(f->s3, "a/b", NULL, &err));
        assert_int_equal(s3_get(f->s3, "a/b", 100, &body, NULL, &err), -CAS_E_NOTFOUND);
        assert_int_equal(s3_head(f->s3, "a/b", &got, &err), -CAS_E_NOTFOUND);
        char piece[2];
        assert_int_equal(s3_get_range(f->s3, "a/b", 0, piece, 2, &err), -CAS_E_NOTFOUND);
}

static void bounds_what_it_reads(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        OK(s3_put(f->s3, "ten", "0123456789", 10, NULL, NULL, &err));
        assert_int_equal(s3_get(f->s3, "ten", 9, &body, NULL, &err), -CAS_E_LIMIT);
        OK(s3_get(f->s3, "ten", 10, &body, NULL, &err));
        OK(s3_put(f->s3, "empty", NULL, 0, NULL, NULL, &err));
        cas_buf_clear(&body);
        OK(s3_get(f->s3, "empty", 10, &body, NULL, &err));
        assert_int_equal(body.len_bytes, 0);
        char long_key[S3_KEY_BYTES_MAX + 2];
        memset(long_key, 'k', sizeof(long_key) - 1);
        long_key[sizeof(long_key) - 1] = '\0';
        assert_int_equal(s3_put(f->s3, long_key, "x", 1, NULL, NULL, &err), -CAS_E_INVALID);
        assert_int_equal(s3_put(f->s3, "", "x", 1, NULL, NULL, &err), -CAS_E_INVALID);
        OK(s3_delete(f->s3, "ten", NULL, &err));
        OK(s3_delete(f->s3, "empty", NULL, &err));
}

static void reads_ranges(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        char piece[8] = "";
        OK(s3_put(f->s3, "ten", "0123456789", 10, NULL, NULL, &err));
        OK(s3_get_range(f->s3, "ten", 3, piece, 4, &err));
        assert_memory_equal(piece, "3456", 4);
        OK(s3_get_range(f->s3, "ten", 9, piece, 1, &err));
        assert_memory_equal(piece, "9", 1);
        OK(s3_get_range(f->s3, "ten", 0, piece, 0, &err));
        assert_int_equal(s3_get_range(f->s3, "ten", 8, piece, 4, &err), -CAS_E_CORRUPT);
        assert_int_equal(s3_get_range(f->s3, "ten", 10, piece, 1, &err), -CAS_E_CORRUPT);
        OK(s3_delete(f->s3, "ten", NULL, &err));
}

static void writes_on_conditions(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct s3_object first, second;
        const struct s3_condition absent = {.if_absent = true};
        if (!f->abilities.if_absent || !f->abilities.if_match)
                skip();
        OK(s3_put(f->s3, "tag", "one", 3, &absent, &first, &err));
        assert_int_equal(s3_put(f->s3, "tag", "two", 3, &absent, NULL, &err), -CAS_E_EXISTS);
        const struct s3_condition match = {.if_match = first.etag};
        OK(s3_put(f->s3, "tag", "two", 3, &match, &second, &err));
        assert_int_equal(s3_put(f->s3, "tag", "three", 5, &match, NULL, &err), -CAS_E_EXISTS);
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        OK(s3_get(f->s3, "tag", 10, &body, NULL, &err));
        assert_string_equal(cas_buf_str(&body), "two");
        if (f->abilities.conditional_delete) {
                assert_int_equal(s3_delete(f->s3, "tag", first.etag, &err), -CAS_E_EXISTS);
                OK(s3_delete(f->s3, "tag", second.etag, &err));
        }
        OK(s3_delete(f->s3, "tag", NULL, &err));
        assert_int_equal(s3_put(f->s3, "tag", "x", 1, &match, NULL, &err), -CAS_E_EXISTS);
}

#define WRITERS 6
#define CHANGES 8

struct writer {
        struct s3 *s3;
        unsigned done;
};

/* Adds one to a number by compare and swap, so often. */
static void *write_main(void *arg)
{
        struct writer *w = arg;
        struct cas_err err = CAS_ERR_INIT;
        while (w->done < CHANGES) {
                cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
                struct s3_object object;
                char next[32];
                if (s3_get(w->s3, "number", 100, &body, &object, &err) < 0)
                        return err.msg[0] ? cas_xstrdup(err.msg) : NULL;
                int len = snprintf(next, sizeof(next), "%lu",
                                   strtoul(cas_buf_str(&body), NULL, 10) + 1);
                const struct s3_condition match = {.if_match = object.etag};
                int rc = s3_put(w->s3, "number", next, (size_t)len, &match, NULL, &err);
                if (rc < 0 && rc != -CAS_E_EXISTS)
                        return cas_xstrdup(err.msg);
                w->done += rc == 0;
        }
        return NULL;
}

static void changes_by_many_at_once(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        pthread_t threads[WRITERS];
        struct writer writers[WRITERS];
        if (!f->abilities.if_match)
                skip();
        OK(s3_put(f->s3, "number", "0", 1, NULL, NULL, &err));
        for (size_t i = 0; i < WRITERS; i++) {
                writers[i] = (struct writer){.s3 = f->s3};
                assert_int_equal(pthread_create(&threads[i], NULL, write_main, &writers[i]), 0);
        }
        for (size_t i = 0; i < WRITERS; i++) {
                void *why;
                assert_int_equal(pthread_join(threads[i], &why), 0);
                if (why)
                        fail_msg("%s", (char *)why);
        }
        OK(s3_get(f->s3, "number", 100, &body, NULL, &err));
        assert_int_equal(strtoul(cas_buf_str(&body), NULL, 10), WRITERS * CHANGES);
        OK(s3_delete(f->s3, "number", NULL, &err));
}

static const char *const odd_keys[] = {"sp ace",   "pl+us",           "per%cent",    "a&b=c?d#e",
                                       "\xc3\xbc", "<xml>\"quoted\"", "semi;colon,", "til~de",
                                       "$@!*'()",  "dots/../up",      "back\\slash"};

struct seen {
        char **keys;
        size_t count;
        unsigned prefixes;
};

static int see(void *arg, const char *key, const struct s3_object *object,
               struct cas_err *err CAS_UNUSED)
{
        struct seen *s = arg;
        s->keys = cas_xrealloc(s->keys, (s->count + 1) * sizeof(*s->keys));
        s->keys[s->count++] = cas_xstrdup(key);
        s->prefixes += object == NULL;
        return 0;
}

static void forget(struct seen *s)
{
        for (size_t i = 0; i < s->count; i++)
                free(s->keys[i]);
        free(s->keys);
        *s = (struct seen){0};
}

static void takes_any_key(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        for (size_t i = 0; i < CAS_COUNT(odd_keys); i++) {
                cas_cleanup_free char *key = cas_xasprintf("odd/%s", odd_keys[i]);
                cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
                OK(s3_put(f->s3, key, key, strlen(key), NULL, NULL, &err));
                OK(s3_get(f->s3, key, 1000, &body, NULL, &err));
                assert_string_equal(cas_buf_str(&body), key);
        }
        struct seen seen = {0};
        OK(s3_list(f->s3, "odd/", NULL, 0, see, &seen, &err));
        assert_int_equal(seen.count, CAS_COUNT(odd_keys));
        for (size_t i = 0; i < seen.count; i++) {
                bool known = false;
                for (size_t k = 0; k < CAS_COUNT(odd_keys); k++)
                        known = known || strcmp(seen.keys[i] + 4, odd_keys[k]) == 0;
                if (!known)
                        fail_msg("listed: %s", seen.keys[i]);
                OK(s3_delete(f->s3, seen.keys[i], NULL, &err));
        }
        forget(&seen);
}

static void put_many(void *arg)
{
        struct s3 *s3 = ((void **)arg)[0];
        struct cas_err err = CAS_ERR_INIT;
        OK(s3_put(s3, ((void **)arg)[1], "x", 1, NULL, NULL, &err));
}

static void delete_many(void *arg)
{
        struct s3 *s3 = ((void **)arg)[0];
        struct cas_err err = CAS_ERR_INIT;
        OK(s3_delete(s3, ((void **)arg)[1], NULL, &err));
}

static void lists_many(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_pool *pool = cas_pool_new(8, 64);
        struct cas_pool_group group = {0};
        void *tasks[KEYS][2];
        for (unsigned i = 0; i < KEYS; i++) {
                tasks[i][0] = f->s3;
                tasks[i][1] = cas_xasprintf("many/%u/key %04u +", i / 100, i);
                cas_pool_submit(pool, &group, put_many, tasks[i]);
        }
        cas_pool_wait(pool, &group);
        struct seen seen = {0};
        OK(s3_list(f->s3, "many/", NULL, 0, see, &seen, &err));
        assert_int_equal(seen.count, KEYS);
        for (size_t i = 1; i < seen.count; i++)
                assert_true(strcmp(seen.keys[i - 1], seen.keys[i]) < 0);
        cas_cleanup_free char *after = cas_xstrdup(seen.keys[KEYS - 11]);
        forget(&seen);
        OK(s3_list(f->s3, "many/", after, 0, see, &seen, &err));
        assert_int_equal(seen.count, 10);
        forget(&seen);
        OK(s3_list(f->s3, "many/", NULL, '/', see, &seen, &err));
        assert_int_equal(seen.count, KEYS / 100);
        assert_int_equal(seen.prefixes, KEYS / 100);
        assert_string_equal(seen.keys[0], "many/0/");
        forget(&seen);
        OK(s3_list(f->s3, "none/", NULL, 0, see, &seen, &err));
        assert_int_equal(seen.count, 0);
        for (unsigned i = 0; i < KEYS; i++)
                cas_pool_submit(pool, &group, delete_many, tasks[i]);
        cas_pool_wait(pool, &group);
        cas_pool_free(pool);
        for (unsigned i = 0; i < KEYS; i++)
                free(tasks[i][1]);
}

static int file_of(size_t bytes, struct cas_digest *digest)
{
        int fd = memfd_create("s3", MFD_CLOEXEC);
        cas_cleanup_free uint8_t *data = cas_xmalloc(bytes + 8);
        for (size_t i = 0; i < bytes; i += 8)
                cas_put_le64(data + i, (i + 1) * UINT64_C(0x9e3779b97f4a7c15));
        assert_int_equal(write(fd, data, bytes), bytes);
        cas_digest_of(CAS_DIGEST_SHA256, data, bytes, digest);
        return fd;
}

static void puts_files(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        static const size_t sizes[] = {0, 1, 5 * MIB, 5 * MIB + 1, 17 * MIB + 3};
        for (size_t i = 0; i < CAS_COUNT(sizes); i++) {
                struct cas_digest digest, other = {.alg = CAS_DIGEST_SHA256};
                cas_cleanup_fd int fd = file_of(sizes[i], &digest);
                cas_cleanup_fd int back = memfd_create("back", MFD_CLOEXEC);
                struct s3_object object;
                assert_int_equal(s3_put_file(f->s3, "file", fd, sizes[i], &other, NULL, &err),
                                 -CAS_E_CORRUPT);
                OK(s3_put_file(f->s3, "file", fd, sizes[i], &digest, NULL, &err));
                OK(s3_head(f->s3, "file", &object, &err));
                assert_int_equal(object.size_bytes, sizes[i]);
                OK(s3_get_file(f->s3, "file", back, sizes[i], &digest, &err));
                struct cas_hash hash;
                OK(s3_hash_file(back, 0, sizes[i], &hash, &err));
                assert_memory_equal(hash.bytes, digest.bytes, CAS_HASH_BYTES);
                assert_int_equal(s3_get_file(f->s3, "file", back, sizes[i] + 1, &digest, &err),
                                 -CAS_E_CORRUPT);
                assert_int_equal(s3_get_file(f->s3, "file", back, sizes[i], &other, &err),
                                 -CAS_E_CORRUPT);
        }
        const struct s3_condition absent = {.if_absent = true};
        struct cas_digest digest;
        cas_cleanup_fd int fd = file_of(6 * MIB, &digest);
        if (f->abilities.multipart_if_absent)
                assert_int_equal(s3_put_file(f->s3, "file", fd, 6 * MIB, &digest, &absent, &err),
                                 -CAS_E_EXISTS);
        OK(s3_delete(f->s3, "file", NULL, &err));
        OK(s3_put_file(f->s3, "file", fd, 6 * MIB, NULL, &absent, &err));
        OK(s3_delete(f->s3, "file", NULL, &err));
        unsigned count;
        OK(s3_abort_uploads(f->s3, "", 0, &count, &err));
        assert_int_equal(count, 0);
}

static size_t take_body(char *data, size_t size, size_t count, void *arg)
{
        cas_buf_append(arg, data, size * count);
        return size * count;
}

static long fetch(const char *url, struct cas_buf *out)
{
        CURL *easy = curl_easy_init();
        long status = 0;
        assert_int_equal(curl_easy_setopt(easy, CURLOPT_URL, url), CURLE_OK);
        assert_int_equal(curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body), CURLE_OK);
        assert_int_equal(curl_easy_setopt(easy, CURLOPT_WRITEDATA, out), CURLE_OK);
        assert_int_equal(curl_easy_perform(easy), CURLE_OK);
        (void)curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
        curl_easy_cleanup(easy);
        return status;
}

static void signs_addresses(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *url = NULL;
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT, none = CAS_BUF_INIT;
        OK(s3_put(f->s3, "for all+to see", "hello", 5, NULL, NULL, &err));
        OK(s3_presign(f->s3, "GET", "for all+to see", 60, &url, &err));
        assert_int_equal(fetch(url, &body), 200);
        assert_string_equal(cas_buf_str(&body), "hello");
        url[strlen(url) - 1] = url[strlen(url) - 1] == '0' ? '1' : '0';
        assert_int_equal(fetch(url, &none), 403);
        OK(s3_delete(f->s3, "for all+to see", NULL, &err));
        assert_int_equal(s3_presign(f->s3, "GET", "k", S3_PRESIGN_S_MAX + 1, &url, &err),
                         -CAS_E_INVALID);
}

static void tells_what_is_wrong(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct s3_config config = s3server_config(f->server);
        struct s3_object object;
        char none[] = "no-such-bucket-of-ours";
        config.bucket = none;
        config.tries = 2;
        struct s3 *s3;
        OK(s3_open(&config, &s3, &err));
        assert_int_equal(s3_put(s3, "k", "x", 1, NULL, NULL, &err), -CAS_E_IO);
        assert_non_null(strstr(err.msg, "there is no bucket"));
        assert_int_equal(s3_head(s3, "k", &object, &err), -CAS_E_IO);
        assert_int_equal(s3_delete(s3, "k", NULL, &err), -CAS_E_IO);
        s3_close(s3);

        config = s3server_config(f->server);
        cas_cleanup_free char *secret = cas_xstrdup(getenv("AWS_SECRET_ACCESS_KEY"));
        assert_int_equal(setenv("AWS_SECRET_ACCESS_KEY", "another", 1), 0);
        OK(s3_open(&config, &s3, &err));
        assert_int_equal(s3_put(s3, "k", "x", 1, NULL, NULL, &err), -CAS_E_DENIED);
        assert_non_null(strstr(err.msg, "SignatureDoesNotMatch"));
        assert_null(strstr(err.msg, "another"));
        s3_close(s3);
        assert_int_equal(setenv("AWS_SECRET_ACCESS_KEY", secret, 1), 0);
}

static struct cas_pack_file pack_of(uint64_t id, size_t bytes, int *fd)
{
        struct cas_digest digest;
        *fd = file_of(bytes, &digest);
        struct cas_pack_file pack = {.pack_id = id, .size_bytes = bytes};
        memcpy(pack.sha256.bytes, digest.bytes, CAS_HASH_BYTES);
        return pack;
}

static int count_pack(void *arg, const struct cas_pack_file *pack, struct cas_err *err CAS_UNUSED)
{
        *(uint64_t *)arg += pack->pack_id;
        return 0;
}

static void keeps_packs(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct s3_config config = s3server_config(f->server);
        cas_cleanup_free char *prefix = cas_xasprintf("tier-%d", (int)getpid());
        config.prefix = prefix;
        struct tier_bucket_config ours = {.s3 = &config,
                                          .store_id = "0123456789abcdef0123456789abcdef",
                                          .tier = 3,
                                          .name = "cold"};
        struct tier_bucket *b;
        assert_int_equal(tier_bucket_open(&ours, &b, &err), -CAS_E_NOTFOUND);
        OK(tier_bucket_make(&ours, &err));
        OK(tier_bucket_make(&ours, &err));
        struct tier_bucket_config other = ours;
        other.store_id = "ffffffffffffffffffffffffffffffff";
        assert_int_equal(tier_bucket_make(&other, &err), -CAS_E_DENIED);
        assert_int_equal(tier_bucket_open(&other, &b, &err), -CAS_E_DENIED);
        other = ours;
        other.tier = 4;
        assert_int_equal(tier_bucket_open(&other, &b, &err), -CAS_E_DENIED);
        OK(tier_bucket_open(&ours, &b, &err));
        assert_memory_equal(tier_bucket_abilities(b), &f->abilities, sizeof(f->abilities));

        cas_cleanup_fd int one_fd = -1, two_fd = -1;
        struct cas_pack_file one = pack_of(1, 3 * MIB, &one_fd),
                             two = pack_of(20, 20 * MIB, &two_fd);
        OK(tier_bucket_put(b, &one, one_fd, &err));
        OK(tier_bucket_put(b, &one, one_fd, &err));
        OK(tier_bucket_put(b, &two, two_fd, &err));
        uint64_t ids = 0;
        OK(tier_bucket_each(b, count_pack, &ids, &err));
        assert_int_equal(ids, 21);
        assert_int_equal(tier_bucket_unmake(b, &err), -CAS_E_BUSY);
        cas_cleanup_fd int back = memfd_create("back", MFD_CLOEXEC);
        OK(tier_bucket_get(b, &two, back, &err));
        uint8_t piece[100], same[100];
        OK(tier_bucket_read(b, &two, 12345678, piece, sizeof(piece), &err));
        assert_int_equal(pread(back, same, sizeof(same), 12345678), sizeof(same));
        assert_memory_equal(piece, same, sizeof(same));
        OK(tier_bucket_delete(b, &one, &err));
        OK(tier_bucket_delete(b, &one, &err));
        assert_int_equal(tier_bucket_get(b, &one, back, &err), -CAS_E_NOTFOUND);
        OK(tier_bucket_delete(b, &two, &err));
        OK(tier_bucket_unmake(b, &err));
        struct s3_counts counts;
        tier_bucket_counts(b, &counts);
        assert_true(counts.bytes_out > 23 * MIB && counts.bytes_in > 20 * MIB);
        tier_bucket_break(b);
        assert_int_equal(tier_bucket_get(b, &one, back, &err), -CAS_E_BUSY);
        tier_bucket_close(b);

        /* Objects, and no marker: not ours to take. */
        OK(s3_put(f->s3, "x", "x", 1, NULL, NULL, &err));
        config.prefix = f->prefix;
        assert_int_equal(tier_bucket_make(&ours, &err), -CAS_E_DENIED);
        OK(s3_delete(f->s3, "x", NULL, &err));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(probes),
                cmocka_unit_test(probes_what_is_missing),
                cmocka_unit_test(puts_and_gets),
                cmocka_unit_test(bounds_what_it_reads),
                cmocka_unit_test(reads_ranges),
                cmocka_unit_test(writes_on_conditions),
                cmocka_unit_test(changes_by_many_at_once),
                cmocka_unit_test(takes_any_key),
                cmocka_unit_test(lists_many),
                cmocka_unit_test(puts_files),
                cmocka_unit_test(signs_addresses),
                cmocka_unit_test(tells_what_is_wrong),
                cmocka_unit_test(keeps_packs),
        };
        return cmocka_run_group_tests(tests, setup, teardown);
}
