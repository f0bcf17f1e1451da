/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <dirent.h>
#include <glob.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "cas/transfer.h"
#include "tests/support/tarmake.h"
#include "tests/support/testlayout.h"
#include "tests/support/teststore.h"

#define check(call, err)                                                                           \
        do {                                                                                       \
                int check_ = (call);                                                               \
                if (check_ < 0)                                                                    \
                        print_error("%s: %s\n", #call, (err)->msg);                                \
                assert_int_equal(check_, 0);                                                       \
        } while (0)

static int import_from(struct teststore *t, const char *address, const char *name,
                       struct cas_err *err)
{
        struct cas_transfer_address from;
        int r = cas_transfer_address_parse(address, &from, err);
        if (r == 0) {
                r = cas_import(t->store, &from, name, NULL, NULL, NULL, err);
                cas_transfer_address_release(&from);
        }
        return r;
}

static int export_to(struct teststore *t, const char *name, const char *platform,
                     const char *address, struct cas_err *err)
{
        struct cas_transfer_address to;
        struct cas_ref ref;
        struct cas_platform p;
        int r = cas_ref_parse(name, &ref, err);
        if (r == 0 && platform)
                r = cas_platform_parse(platform, &p, err);
        if (r == 0)
                r = cas_transfer_address_parse(address, &to, err);
        if (r == 0) {
                r = cas_export(t->store, &ref, platform ? &p : NULL, &to, NULL, err);
                cas_transfer_address_release(&to);
        }
        return r;
}

static char *at(struct teststore *t, const char *scheme, const char *name)
{
        return cas_xasprintf("%s%s/%s", scheme, t->dir, name);
}

static size_t count_blobs(struct teststore *t, const char *layout)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s/blobs/sha256", t->dir, layout);
        size_t count = 0;
        DIR *d = opendir(path);
        assert_non_null(d);
        for (struct dirent *e; (e = readdir(d)) != NULL;)
                count += e->d_name[0] != '.';
        assert_int_equal(closedir(d), 0);
        return count;
}

/* Every blob of `from` is in `to` with the same bytes. */
static void assert_same_blobs(struct teststore *t, const char *from, const char *to)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s/blobs/sha256", t->dir, from);
        cas_cleanup_free char *other = cas_xasprintf("%s/%s/blobs/sha256", t->dir, to);
        struct cas_err err = CAS_ERR_INIT;
        DIR *d = opendir(path);
        assert_non_null(d);
        for (struct dirent *e; (e = readdir(d)) != NULL;) {
                cas_cleanup_buf struct cas_buf a = CAS_BUF_INIT, b = CAS_BUF_INIT;
                if (e->d_name[0] == '.')
                        continue;
                cas_cleanup_free char *x = cas_xasprintf("%s/%s", path, e->d_name);
                cas_cleanup_free char *y = cas_xasprintf("%s/%s", other, e->d_name);
                check(cas_io_read_file(cas_io_posix(), AT_FDCWD, x, CAS_MIB, &a, &err), &err);
                check(cas_io_read_file(cas_io_posix(), AT_FDCWD, y, CAS_MIB, &b, &err), &err);
                assert_int_equal(a.len_bytes, b.len_bytes);
                assert_memory_equal(a.data, b.data, a.len_bytes);
        }
        assert_int_equal(closedir(d), 0);
        assert_int_equal(count_blobs(t, from), count_blobs(t, to));
}

static void addresses_are_parsed(void **state CAS_UNUSED)
{
        static const struct {
                const char *text, *path, *tag;
                enum cas_transfer_kind kind;
        } good[] = {
                {"oci:dir", "dir", "", CAS_TRANSFER_OCI_LAYOUT},
                {"oci:/a/b:v1", "/a/b", "v1", CAS_TRANSFER_OCI_LAYOUT},
                {"oci:d:name:v1", "d", "name:v1", CAS_TRANSFER_OCI_LAYOUT},
                {"oci-archive:f.tar", "f.tar", "", CAS_TRANSFER_OCI_ARCHIVE},
                {"docker-archive:f:a/b:c", "f", "a/b:c", CAS_TRANSFER_DOCKER_ARCHIVE},
        };
        static const char *const bad[] = {"", "dir", "oci", "oci:", "oci::tag", "docker://x"};
        for (size_t i = 0; i < CAS_COUNT(good); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct cas_transfer_address a;
                check(cas_transfer_address_parse(good[i].text, &a, &err), &err);
                assert_int_equal(a.kind, good[i].kind);
                assert_string_equal(a.path, good[i].path);
                assert_string_equal(a.tag, good[i].tag);
                cas_transfer_address_release(&a);
        }
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct cas_transfer_address a;
                assert_int_equal(cas_transfer_address_parse(bad[i], &a, &err), -CAS_E_INVALID);
        }
}

/* Two images under names of several kinds, and one without. */
static void make_layout(struct teststore *t, const char *name)
{
        struct testlayout l;
        cas_cleanup_buf struct cas_buf a = CAS_BUF_INIT, b = CAS_BUF_INIT, c = CAS_BUF_INIT;
        testlayout_init(&l, t->dir, name);
        testlayout_image(&l, "one", "amd64", &a, "");
        testlayout_image(&l, "two", "amd64", &b, "");
        testlayout_image(&l, "three", "amd64", &c, "");
        testlayout_name(&l, cas_buf_str(&a), "one");
        testlayout_name(&l, cas_buf_str(&b), "group/two:v2");
        testlayout_name(&l, cas_buf_str(&b), "localhost:5000/two");
        testlayout_name(&l, cas_buf_str(&c), "");
        testlayout_finish(&l);
        testlayout_release(&l);
}

static void layouts_round_trip(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest one, two, again;
        make_layout(t, "in");
        cas_cleanup_free char *in = at(t, "oci:", "in"), *out = at(t, "oci:", "out"),
                              *tagged = at(t, "oci:", "out:tagged");
        check(import_from(t, in, NULL, &err), &err);
        check(cas_tag_get(t->store, "one", "latest", &one, &err), &err);
        check(cas_tag_get(t->store, "group/two", "v2", &two, &err), &err);
        check(cas_tag_get(t->store, "two", "latest", &again, &err), &err);
        assert_true(cas_digest_equal(&two, &again));
        check(import_from(t, in, NULL, &err), &err); /* again: nothing changes */
        check(export_to(t, "one", NULL, out, &err), &err);
        check(export_to(t, "group/two:v2", NULL, out, &err), &err);
        check(export_to(t, "one", NULL, tagged, &err), &err);
        assert_int_equal(count_blobs(t, "out"), 6);
        /* All names that the export gave come back as they were, elsewhere. */
        struct teststore *u;
        assert_int_equal(teststore_setup((void **)&u), 0);
        check(import_from(u, out, NULL, &err), &err);
        check(cas_tag_get(u->store, "one", "latest", &again, &err), &err);
        assert_true(cas_digest_equal(&one, &again));
        check(cas_tag_get(u->store, "group/two", "v2", &again, &err), &err);
        assert_true(cas_digest_equal(&two, &again));
        check(cas_tag_get(u->store, "tagged", "latest", &again, &err), &err);
        cas_cleanup_free char *out2 = cas_xasprintf("oci:%s/out2", t->dir);
        check(export_to(u, "one", NULL, out2, &err), &err);
        check(export_to(u, "group/two:v2", NULL, out2, &err), &err);
        assert_int_equal(teststore_teardown((void **)&u), 0);
        assert_same_blobs(t, "out", "out2");
}

/* Files of blobs are lost, the index is not: what is imported again is there again. */
static void importing_heals_lost_blobs(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        make_layout(t, "in");
        cas_cleanup_free char *in = at(t, "oci:", "in"), *out = at(t, "oci:", "out");
        cas_cleanup_free char *pattern = cas_xasprintf("%s/blobs/sha256/*/*", t->path);
        check(import_from(t, in, NULL, &err), &err);
        glob_t files;
        assert_int_equal(glob(pattern, 0, NULL, &files), 0);
        assert_int_equal(files.gl_pathc, 6);
        for (size_t i = 0; i < files.gl_pathc; i++)
                assert_int_equal(unlink(files.gl_pathv[i]), 0);
        globfree(&files);
        check(import_from(t, in, NULL, &err), &err);
        check(export_to(t, "one", NULL, out, &err), &err);
        check(export_to(t, "group/two:v2", NULL, out, &err), &err);
        assert_int_equal(count_blobs(t, "out"), 6);
}

static void archives_round_trip(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest one, again;
        make_layout(t, "in");
        cas_cleanup_free char *in = at(t, "oci:", "in"), *a = at(t, "oci-archive:", "a.tar"),
                              *out = at(t, "oci:", "out"), *ref = at(t, "oci:", "ref");
        check(import_from(t, in, NULL, &err), &err);
        check(cas_tag_get(t->store, "one", "latest", &one, &err), &err);
        check(export_to(t, "one", NULL, a, &err), &err);
        check(export_to(t, "one", NULL, ref, &err), &err);
        struct teststore *u;
        assert_int_equal(teststore_setup((void **)&u), 0);
        check(import_from(u, a, "other:1", &err), &err);
        check(cas_tag_get(u->store, "other", "1", &again, &err), &err);
        assert_true(cas_digest_equal(&one, &again));
        check(export_to(u, "other:1", NULL, out, &err), &err);
        assert_int_equal(teststore_teardown((void **)&u), 0);
        assert_same_blobs(t, "ref", "out");
}

static void docker_archives_round_trip(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_ref ref;
        make_layout(t, "in");
        cas_cleanup_free char *in = at(t, "oci:", "in"), *a = at(t, "docker-archive:", "d.tar"),
                              *b = at(t, "docker-archive:", "e.tar");
        check(import_from(t, in, NULL, &err), &err);
        check(export_to(t, "one", NULL, a, &err), &err);
        check(import_from(t, a, "back:1", &err), &err);
        check(export_to(t, "back:1", NULL, b, &err), &err);
        check(import_from(t, b, "back:2", &err), &err);
        cas_cleanup_image struct cas_image first = {0}, second = {0}, origin = {0};
        check(cas_ref_parse("one", &ref, &err), &err);
        check(cas_image_open(t->store, &ref, NULL, NULL, &origin, &err), &err);
        check(cas_ref_parse("back:1", &ref, &err), &err);
        check(cas_image_open(t->store, &ref, NULL, NULL, &first, &err), &err);
        check(cas_ref_parse("back:2", &ref, &err), &err);
        check(cas_image_open(t->store, &ref, NULL, NULL, &second, &err), &err);
        assert_true(cas_digest_equal(&first.manifest_digest, &second.manifest_digest));
        assert_true(
                cas_digest_equal(&origin.manifest.config.digest, &first.manifest.config.digest));
        assert_true(cas_digest_equal(&origin.layers[0].diff_id, &first.layers[0].diff_id));
}

/* What `docker save` made before 25.0: a directory for each layer, equal ones as links. */
static void docker_archives_may_link_layers(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT, layer = CAS_BUF_INIT,
                                       config = CAS_BUF_INIT;
        struct cas_digest diff_id;
        char text[CAS_DIGEST_TEXT_BYTES];
        tarmake_file(&layer, "f", "linked");
        tarmake_end(&layer);
        cas_digest_of(CAS_DIGEST_SHA256, layer.data, layer.len_bytes, &diff_id);
        cas_digest_text(&diff_id, text);
        cas_buf_printf(&config, "{\"rootfs\":{\"diff_ids\":[\"%s\",\"%s\"]}}", text, text);
        tarmake_file(&tar, "c.json", cas_buf_str(&config));
        tarmake_header(&tar, &(struct tarmake){.name = "a/layer.tar", .size = layer.len_bytes});
        tarmake_data(&tar, layer.data, layer.len_bytes);
        tarmake_header(&tar, &(struct tarmake){
                                     .name = "b/layer.tar", .type = '2', .link = "../a/layer.tar"});
        tarmake_file(&tar, "manifest.json",
                     "[{\"Config\":\"c.json\",\"RepoTags\":[\"app:1\",\"app:2\"],"
                     "\"Layers\":[\"a/layer.tar\",\"b/layer.tar\"]}]");
        tarmake_end(&tar);
        struct testlayout here = {.path = t->dir};
        testlayout_write(&here, "d.tar", tar.data, tar.len_bytes);
        cas_cleanup_free char *from = at(t, "docker-archive:", "d.tar");
        check(import_from(t, from, NULL, &err), &err);
        struct cas_ref ref;
        cas_cleanup_image struct cas_image image = {0};
        check(cas_ref_parse("app:2", &ref, &err), &err);
        check(cas_image_open(t->store, &ref, NULL, NULL, &image, &err), &err);
        assert_int_equal(image.manifest.child_count, 2);
}

/* A layout of one index with an image for each of two platforms, one of them removed. */
static void sparse_indexes_keep_their_bytes(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testlayout l;
        cas_cleanup_buf struct cas_buf a = CAS_BUF_INIT, b = CAS_BUF_INIT, index = CAS_BUF_INIT,
                                       top = CAS_BUF_INIT;
        testlayout_init(&l, t->dir, "in");
        testlayout_image(&l, "amd", "amd64", &a,
                         ",\"platform\":{\"os\":\"linux\",\"architecture\":\"amd64\"}");
        testlayout_image(&l, "arm", "arm64", &b,
                         ",\"platform\":{\"os\":\"linux\",\"architecture\":\"arm64\"}");
        cas_buf_printf(&index, "{\"schemaVersion\":2,\"manifests\":[%s,%s]}", cas_buf_str(&a),
                       cas_buf_str(&b));
        struct cas_digest d = testlayout_blob(&l, index.data, index.len_bytes);
        testlayout_descriptor(&top, CAS_MT_OCI_INDEX, &d, index.len_bytes, "");
        testlayout_name(&l, cas_buf_str(&top), "multi");
        testlayout_finish(&l);
        const char *hex = strstr(cas_buf_str(&b), "sha256:") + 7;
        cas_cleanup_free char *gone = cas_xasprintf("%s/blobs/sha256/%.64s", l.path, hex);
        assert_int_equal(unlink(gone), 0);
        testlayout_release(&l);
        cas_cleanup_free char *in = at(t, "oci:", "in"), *out = at(t, "oci:", "out"),
                              *one = at(t, "oci:", "one");
        check(import_from(t, in, NULL, &err), &err);
        struct cas_digest now;
        check(cas_tag_get(t->store, "multi", "latest", &now, &err), &err);
        assert_true(cas_digest_equal(&now, &d));
        check(export_to(t, "multi", NULL, out, &err), &err);
        assert_int_equal(count_blobs(t, "out"), 4);
        check(export_to(t, "multi", "linux/amd64", one, &err), &err);
        assert_int_equal(count_blobs(t, "one"), 3);
        assert_int_equal(export_to(t, "multi", "linux/arm64", one, &err), -CAS_E_NOTFOUND);
        struct cas_err other = CAS_ERR_INIT;
        assert_int_equal(export_to(t, "multi", "linux/s390x", one, &other), -CAS_E_NOTFOUND);
        assert_non_null(strstr(other.msg, "linux/arm64"));
}

/* ---- hostile sources ---- */

static void assert_store_is_empty(struct teststore *t)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store_stats stats;
        check(cas_store_stats(t->store, &stats, &err), &err);
        assert_int_equal(stats.tag_count, 0);
        assert_int_equal(stats.manifest_count, 0);
        assert_int_equal(stats.repo_count, 0);
}

static void damaged_blobs_are_refused(void **state)
{
        struct teststore *t = *state;
        static const char *const damage[] = {"absent", "short", "flipped", "fifo", "directory"};
        for (size_t i = 0; i < CAS_COUNT(damage); i++) {
                for (size_t which = 0; which < 3; which++) { /* manifest, layer, config */
                        cas_cleanup_free char *name = cas_xasprintf("in%zu-%zu", i, which);
                        struct testlayout l;
                        struct cas_err err = CAS_ERR_INIT;
                        cas_cleanup_buf struct cas_buf a = CAS_BUF_INIT, m = CAS_BUF_INIT;
                        testlayout_init(&l, t->dir, name);
                        testlayout_image(&l, name, "amd64", &a, "");
                        testlayout_name(&l, cas_buf_str(&a), "bad");
                        testlayout_finish(&l);
                        const char *hex = strstr(cas_buf_str(&a), "sha256:") + 7;
                        cas_cleanup_free char *path =
                                cas_xasprintf("%s/blobs/sha256/%.64s", l.path, hex);
                        check(cas_io_read_file(cas_io_posix(), AT_FDCWD, path, CAS_MIB, &m, &err),
                              &err);
                        if (which > 0) {
                                const char *json = strstr(cas_buf_str(&m), "sha256:");
                                if (which == 1)
                                        json = strstr(json + 1, "sha256:");
                                free(path);
                                path = cas_xasprintf("%s/blobs/sha256/%.64s", l.path, json + 7);
                        }
                        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
                        check(cas_io_read_file(cas_io_posix(), AT_FDCWD, path, CAS_MIB, &bytes,
                                               &err),
                              &err);
                        assert_int_equal(unlink(path), 0);
                        if (i == 3)
                                assert_int_equal(mkfifo(path, 0600), 0);
                        if (i == 4)
                                assert_int_equal(mkdir(path, 0700), 0);
                        if (i == 1 || i == 2) {
                                bytes.data[bytes.len_bytes / 2] ^= 1;
                                cas_cleanup_free char *relative =
                                        cas_xstrdup(path + strlen(l.path) + 1);
                                testlayout_write(&l, relative, bytes.data,
                                                 bytes.len_bytes - (i == 1));
                        }
                        testlayout_release(&l);
                        cas_cleanup_free char *in = at(t, "oci:", name);
                        int r = import_from(t, in, NULL, &err);
                        if (r == 0)
                                print_error("%s blob %zu was taken\n", damage[i], which);
                        assert_true(r < 0);
                        assert_store_is_empty(t);
                }
        }
}

static void bad_layouts_are_refused(void **state)
{
        struct teststore *t = *state;
        static const struct {
                const char *marker, *index;
                enum cas_code code;
        } cases[] = {
                {"", "", CAS_E_INVALID},
                {"{}", "{}", CAS_E_INVALID},
                {"{\"imageLayoutVersion\":\"2.0.0\"}", "{}", CAS_E_UNSUPPORTED},
                {"{\"imageLayoutVersion\":\"1.0.0\"}", "{}", CAS_E_INVALID},
                {"{\"imageLayoutVersion\":\"1.0.0\"}", "[]", CAS_E_INVALID},
                {"{\"imageLayoutVersion\":\"1.0.0\"}", "{\"schemaVersion\":2,\"manifests\":7}",
                 CAS_E_INVALID},
                {"{\"imageLayoutVersion\":\"1.0.0\"}", "{\"schemaVersion\":2,\"manifests\":[]}",
                 CAS_E_NOTFOUND},
                {"{\"imageLayoutVersion\":\"1.0.0\"}",
                 "{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"" CAS_MT_OCI_MANIFEST
                 "\",\"size\":1,\"digest\":\"sha256:../../../../../../etc/passwd\"}]}",
                 CAS_E_INVALID},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct testlayout l;
                cas_cleanup_free char *name = cas_xasprintf("bad%zu", i), *in = at(t, "oci:", name);
                testlayout_init(&l, t->dir, name);
                testlayout_write(&l, "oci-layout", cases[i].marker, strlen(cases[i].marker));
                testlayout_write(&l, "index.json", cases[i].index, strlen(cases[i].index));
                testlayout_release(&l);
                int r = import_from(t, in, NULL, &err);
                if (r != -(int)cases[i].code)
                        print_error("case %zu: %d %s\n", i, r, err.msg);
                assert_int_equal(r, -(int)cases[i].code);
        }
        assert_store_is_empty(t);
}

static void a_huge_index_is_refused_unread(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testlayout l;
        testlayout_init(&l, t->dir, "huge");
        testlayout_finish(&l);
        cas_cleanup_free char *path = cas_xasprintf("%s/index.json", l.path),
                              *in = at(t, "oci:", "huge");
        assert_int_equal(truncate(path, (off_t)1 << 40), 0);
        testlayout_release(&l);
        assert_int_equal(import_from(t, in, NULL, &err), -CAS_E_LIMIT);
}

/* An index whose only child is an index, and so on: too deep is refused. */
static void nesting_is_bounded(void **state)
{
        struct teststore *t = *state;
        struct testlayout l;
        cas_cleanup_buf struct cas_buf d = CAS_BUF_INIT;
        testlayout_init(&l, t->dir, "deep");
        testlayout_image(&l, "text", "amd64", &d, "");
        for (unsigned i = 0; i < 2 * CAS_INDEX_DEPTH_MAX; i++) {
                cas_cleanup_buf struct cas_buf index = CAS_BUF_INIT;
                cas_buf_printf(&index, "{\"schemaVersion\":2,\"manifests\":[%s]}", cas_buf_str(&d));
                struct cas_digest digest = testlayout_blob(&l, index.data, index.len_bytes);
                cas_buf_clear(&d);
                testlayout_descriptor(&d, CAS_MT_OCI_INDEX, &digest, index.len_bytes, "");
                if (i + 1 == CAS_INDEX_DEPTH_MAX)
                        testlayout_name(&l, cas_buf_str(&d), "fits");
        }
        testlayout_name(&l, cas_buf_str(&d), "deep");
        testlayout_finish(&l);
        testlayout_release(&l);
        cas_cleanup_free char *fits = at(t, "oci:", "deep:fits"),
                              *deep = at(t, "oci:", "deep:deep");
        struct cas_err err = CAS_ERR_INIT;
        assert_int_equal(import_from(t, deep, NULL, &err), -CAS_E_LIMIT);
        struct cas_err other = CAS_ERR_INIT;
        check(import_from(t, fits, NULL, &other), &other);
}

static void bad_archives_are_refused(void **state)
{
        struct teststore *t = *state;
        static const struct {
                const char *manifest;
                enum cas_code code;
        } cases[] = {
                {"", CAS_E_INVALID},
                {"{}", CAS_E_INVALID},
                {"[1]", CAS_E_INVALID},
                {"[{}]", CAS_E_INVALID},
                {"[{\"Config\":\"../../etc/passwd\",\"Layers\":[]}]", CAS_E_NOTFOUND},
                {"[{\"Config\":\"loop\",\"Layers\":[]}]", CAS_E_INVALID},
                {"[{\"Config\":\"manifest.json\",\"Layers\":[]}]", CAS_E_INVALID},
                {"[{\"Config\":\"c\",\"Layers\":[\"c\",\"c\"]}]", CAS_E_INVALID},
                {"[{\"Config\":\"c\",\"Layers\":[\"absent\"],\"RepoTags\":[\"x\"]}]",
                 CAS_E_NOTFOUND},
                {"[{\"Config\":\"c\",\"Layers\":[\"c\"],\"RepoTags\":[\"x\"]}]", CAS_E_CORRUPT},
                {"[{\"Config\":\"c\",\"Layers\":[\"/dev/zero\"],\"RepoTags\":[\"x\"]}]",
                 CAS_E_NOTFOUND},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct cas_err err = CAS_ERR_INIT;
                cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
                tarmake_header(&tar,
                               &(struct tarmake){.name = "loop", .type = '2', .link = "./loop"});
                tarmake_file(&tar, "c",
                             "{\"rootfs\":{\"diff_ids\":[\"sha256:e3b0c44298fc1c149afbf4c8996fb924"
                             "27ae41e4649b934ca495991b7852b855\"]}}");
                tarmake_file(&tar, "manifest.json", cases[i].manifest);
                tarmake_end(&tar);
                struct testlayout here = {.path = t->dir};
                testlayout_write(&here, "d.tar", tar.data, tar.len_bytes);
                cas_cleanup_free char *from = at(t, "docker-archive:", "d.tar");
                int r = import_from(t, from, NULL, &err);
                if (r != -(int)cases[i].code)
                        print_error("case %zu: %d %s\n", i, r, err.msg);
                assert_int_equal(r, -(int)cases[i].code);
        }
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *from = at(t, "oci-archive:", "d.tar");
        assert_int_equal(import_from(t, from, NULL, &err), -CAS_E_NOTFOUND);
        assert_store_is_empty(t);
}

int main(void)
{
#define with_store(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(addresses_are_parsed),
                with_store(layouts_round_trip),
                with_store(importing_heals_lost_blobs),
                with_store(archives_round_trip),
                with_store(docker_archives_round_trip),
                with_store(docker_archives_may_link_layers),
                with_store(sparse_indexes_keep_their_bytes),
                with_store(damaged_blobs_are_refused),
                with_store(bad_layouts_are_refused),
                with_store(a_huge_index_is_refused_unread),
                with_store(nesting_is_bounded),
                with_store(bad_archives_are_refused),
        };
        return cmocka_run_group_tests_name("transfer", tests, NULL, NULL);
}
