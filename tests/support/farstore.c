/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/farstore.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <unistd.h>

#include "cas/image.h"
#include "cas/object.h"

#define ok(call) assert_int_equal(call, 0)

static int give_object(struct farstore *f, const struct cas_hash *id, struct cas_publish *p,
                       struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct cas_hash got;
        bool victim = cas_hash_equal(id, &f->victim);
        if (victim && f->misses)
                return cas_fail(err, CAS_E_NOTFOUND, "not there");
        if (cas_object_read(f->far, id, 1 << 26, &bytes, err) < 0)
                return -(int)err->code;
        if (victim && f->lies)
                bytes.data[0] ^= 1;
        if (cas_publish_object(p, bytes.data, bytes.len_bytes, &got, err) < 0 ||
            cas_publish_drain(p, err) < 0)
                return -(int)err->code;
        return cas_hash_equal(&got, id) ? 0 : cas_fail(err, CAS_E_CORRUPT, "other bytes");
}

static int fetch_objects(struct cas_remote *r, const struct cas_digest *layer CAS_UNUSED,
                         const struct cas_hash *ids, size_t count, struct cas_publish *p,
                         struct cas_err *err)
{
        struct farstore *f = (struct farstore *)r;
        atomic_fetch_add(&f->requests, 1);
        (void)usleep(f->delay_ms * 1000);
        if (f->dead)
                return cas_fail(err, CAS_E_IO, "connection refused");
        for (size_t i = 0; i < count; i++) {
                if (give_object(f, &ids[i], p, err) < 0)
                        return -(int)err->code;
                unsigned at = atomic_fetch_add(&f->log_count, 1);
                if (at < CAS_COUNT(f->log))
                        f->log[at] = ids[i];
        }
        atomic_fetch_add(&f->objects, (unsigned)count);
        return 0;
}

static int copy_blob(struct farstore *f, const struct cas_digest *digest, struct cas_publish *p,
                     struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        if (cas_blob_read(f->far, digest, 1 << 20, &bytes, err) < 0)
                return -(int)err->code;
        return cas_publish_blob(p, bytes.data, bytes.len_bytes, digest, NULL, err);
}

static int finish_layer(struct cas_remote *r, struct cas_store *s,
                        const struct cas_layer_record *layer, uint64_t blob_bytes CAS_UNUSED,
                        const struct cas_progress *progress CAS_UNUSED, struct cas_err *err)
{
        struct farstore *f = (struct farstore *)r;
        cas_cleanup_publish struct cas_publish *p = NULL;
        cas_cleanup_listing struct cas_listing listing = {0};
        if (f->dead || f->no_finish)
                return cas_fail(err, CAS_E_IO, "connection refused");
        if (cas_publish_begin(s, &p, err) < 0 || copy_blob(f, &layer->blob, p, err) < 0 ||
            cas_layer_listing(s, layer, &listing, err) < 0 ||
            cas_publish_layer(p, layer, &listing, err) < 0 || cas_publish_commit(p, err) < 0)
                return -(int)err->code;
        atomic_fetch_add(&f->finished, 1);
        return 0;
}

static void close_remote(struct cas_remote *r CAS_UNUSED)
{
}

static const struct cas_remote_ops ops = {
        .fetch_objects = fetch_objects, .finish_layer = finish_layer, .close = close_remote};

static int open_remote(void *arg, const char *source, struct cas_remote **out, struct cas_err *err)
{
        struct farstore *f = arg;
        if (strcmp(source, "far") != 0)
                return cas_fail(err, CAS_E_NOTFOUND, "no source %s", source);
        if (f->dead)
                return cas_fail(err, CAS_E_IO, "connection refused");
        atomic_fetch_add(&f->opened, 1);
        *out = &f->remote;
        return 0;
}

void farstore_wire(struct farstore *f, unsigned wait_ms)
{
        const struct cas_remotes remotes = {.open = open_remote, .arg = f, .wait_ms = wait_ms};
        cas_store_set_remotes(f->near->store, &remotes);
}

void farstore_open(struct farstore *f, struct teststore *near, unsigned wait_ms)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *path = cas_xasprintf("%s/far", near->dir);
        const struct cas_store_config config = {.path = path};
        memset(f, 0, sizeof(*f));
        f->remote.ops = &ops;
        f->near = near;
        ok(cas_store_open(&config, &f->far, &err));
        farstore_wire(f, wait_ms);
}

void farstore_close(struct farstore *f)
{
        teststore_close(f->near); /* it closes the remote, which is f's */
        cas_store_close(f->far);
}

static void note_layer(struct farstore *f, const struct testimage *image)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_listing struct cas_listing listing = {0};
        cas_cleanup_publish struct cas_publish *p = NULL;
        cas_cleanup_free struct cas_elsewhere_layer *rec = cas_xcalloc(1, sizeof(*rec));
        struct cas_hash id;
        rec->layer = image->layer;
        rec->manifest = image->manifest;
        memcpy(rec->source, "far", 4);
        ok(cas_blob_stat(f->far, &image->layer.blob, &rec->blob_bytes, &err));
        ok(cas_object_read(f->far, &image->layer.listing, 1 << 26, &bytes, &err));
        ok(cas_listing_decode(bytes.data, bytes.len_bytes, &listing, &err));
        ok(cas_publish_begin(f->near->store, &p, &err));
        ok(cas_publish_object(p, bytes.data, bytes.len_bytes, &id, &err));
        ok(copy_blob(f, &image->config, p, &err));
        ok(cas_elsewhere_put(p, rec, &listing, &err));
        ok(cas_publish_commit(p, &err));
        cas_elsewhere_changed(f->near->store);
}

void farstore_image(struct farstore *f, const char *repo, const char *tag, unsigned seed,
                    unsigned files, struct testimage *out)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf manifest = CAS_BUF_INIT;
        const struct cas_manifest_put_options options = {
                .repo = repo, .tag = tag, .allow_elsewhere = true};
        *out = (struct testimage){0};
        ok(testimage_put(f->far, repo, tag, seed, files, out, &err));
        note_layer(f, out);
        ok(cas_blob_read(f->far, &out->manifest, 1 << 20, &manifest, &err));
        ok(cas_manifest_put(f->near->store, &options, manifest.data, manifest.len_bytes, NULL,
                            &err));
}

struct cas_hash farstore_file(struct farstore *f, const struct testimage *image, unsigned file)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_listing struct cas_listing listing = {0};
        ok(cas_layer_listing(f->far, &image->layer, &listing, &err));
        assert_true(file < listing.count);
        return listing.entries[file].object;
}
