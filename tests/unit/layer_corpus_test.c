/* SPDX-License-Identifier: Apache-2.0 */
/* Every layer of the corpus is imported, and its diff_id is the one that the image's config
 * states. LAMINA_CORPUS names the OCI layout; without it there is nothing to do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <time.h>

#include "cas/image.h"
#include "tests/support/teststore.h"

static int read_fd(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        ssize_t n = read(*(int *)arg, buf, len);
        if (n < 0)
                return cas_fail(err, CAS_E_IO, "read");
        *out_len = (size_t)n;
        return 0;
}

static char *blob_path(const char *layout, const struct cas_digest *d)
{
        char hex[CAS_DIGEST_TEXT_BYTES];
        return cas_xasprintf("%s/blobs/%s/%s", layout,
                             cas_digest_alg_name((enum cas_digest_alg)d->alg),
                             cas_digest_hex(d, hex));
}

static void load(const char *layout, const struct cas_digest *d, struct cas_buf *out)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *path = blob_path(layout, d);
        assert_int_equal(
                cas_io_read_file(cas_io_posix(), AT_FDCWD, path, CAS_MANIFEST_BYTES_MAX, out, &err),
                0);
}

static double now(void)
{
        struct timespec ts;
        (void)clock_gettime(CLOCK_MONOTONIC, &ts);
        return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void import_layer(struct teststore *t, const char *layout, const struct cas_digest *blob,
                         const struct cas_digest *diff_id)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_layer_record rec, again;
        cas_cleanup_listing struct cas_listing listing = {0};
        cas_cleanup_free char *path = blob_path(layout, blob);
        cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
        double start = now();
        if (cas_layer_import(t->store, read_fd, &fd, blob, NULL, &rec, &err) < 0)
                fail_msg("%s: %s", path, err.msg);
        double seconds = now() - start;
        assert_true(cas_digest_equal(&rec.diff_id, diff_id));
        assert_true(cas_digest_equal(&rec.blob, blob));
        assert_int_equal(cas_layer_listing(t->store, &rec, &listing, &err), 0);
        assert_int_equal(listing.count, rec.entry_count);
        assert_int_equal(cas_layer_ensure(t->store, blob, NULL, &again, &err), 0);
        assert_memory_equal(&rec.listing, &again.listing, sizeof(rec.listing));
        print_message("%9.1f MB of tar, %6zu entries, %6.0f MB/s\n", (double)rec.tar_bytes / 1e6,
                      listing.count, (double)rec.tar_bytes / 1e6 / seconds);
}

static void import_image(struct teststore *t, const char *layout, const struct cas_digest *digest)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf config_bytes = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        cas_cleanup_image_config struct cas_image_config config = {0};
        load(layout, digest, &bytes);
        assert_int_equal(cas_manifest_parse(bytes.data, bytes.len_bytes, NULL, &m, &err), 0);
        if (m.kind == CAS_MANIFEST_INDEX) {
                for (size_t i = 0; i < m.child_count; i++)
                        import_image(t, layout, &m.children[i].digest);
                return;
        }
        load(layout, &m.config.digest, &config_bytes);
        assert_int_equal(
                cas_image_config_parse(config_bytes.data, config_bytes.len_bytes, &config, &err),
                0);
        assert_int_equal(config.diff_id_count, m.child_count);
        for (size_t i = 0; i < m.child_count; i++) {
                struct cas_layer_record rec;
                if (cas_layer_stat(t->store, &m.children[i].digest, &rec, &err) < 0)
                        import_layer(t, layout, &m.children[i].digest, &config.diff_ids[i]);
        }
}

static void corpus_layers_decode(void **state)
{
        struct cas_err err = CAS_ERR_INIT;
        const char *layout = getenv("LAMINA_CORPUS");
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest index = {0};
        if (!layout || !*layout)
                skip();
        cas_cleanup_free char *path = cas_xasprintf("%s/index.json", layout);
        assert_int_equal(cas_io_read_file(cas_io_posix(), AT_FDCWD, path, CAS_MANIFEST_BYTES_MAX,
                                          &bytes, &err),
                         0);
        assert_int_equal(
                cas_manifest_parse(bytes.data, bytes.len_bytes, CAS_MT_OCI_INDEX, &index, &err), 0);
        for (size_t i = 0; i < index.child_count; i++)
                import_image(*state, layout, &index.children[i].digest);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(corpus_layers_decode, teststore_setup,
                                                teststore_teardown),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
