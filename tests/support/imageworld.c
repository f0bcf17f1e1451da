/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/imageworld.h"

#include <stdio.h>
#include <zlib.h>

#include "cas/blob.h"
#include "cas/blobstream.h"
#include "cas/object.h"
#include "tests/support/tarmake.h"
#include "tests/support/testlayout.h"

#define CONTENTS 8
/* The last two are of several chunks, and the longer begins with those of the other. */
#define LONG_BYTES (300 * CAS_KIB)
#define LONG_MORE_BYTES (80 * CAS_KIB)
#define READ_BYTES 65536

/* ---- making it ---- */

static void append_content(struct cas_buf *out, unsigned n)
{
        bool is_long = n >= CONTENTS - 2;
        uint64_t x = is_long ? 1 : n * 2654435761u + 2;
        size_t len = is_long ? LONG_BYTES + (n - CONTENTS + 2) * LONG_MORE_BYTES : 200 + n * 700;
        cas_buf_reserve(out, len);
        for (size_t i = 0; i < len; i++) {
                x = x * 6364136223846793005u + 1442695040888963407u;
                cas_buf_append_byte(out, (uint8_t)((x >> 60) + 'a'));
        }
}

static void append_file(struct cas_buf *tar, unsigned n)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_free char *name = cas_xasprintf("file%u", n);
        append_content(&bytes, n);
        tarmake_header(tar, &(struct tarmake){.name = name, .size = bytes.len_bytes});
        tarmake_data(tar, bytes.data, bytes.len_bytes);
}

static void gzip(const struct cas_buf *in, struct cas_buf *out)
{
        z_stream z = {0};
        cas_assert(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
        size_t room = deflateBound(&z, in->len_bytes);
        cas_buf_reserve(out, room);
        z.next_in = in->data;
        z.avail_in = (unsigned)in->len_bytes;
        z.next_out = out->data;
        z.avail_out = (unsigned)room;
        cas_assert(deflate(&z, Z_FINISH) == Z_STREAM_END);
        out->len_bytes = z.total_out;
        cas_assert(deflateEnd(&z) == Z_OK);
}

static void name_blob(struct world_blob *b)
{
        cas_digest_of(CAS_DIGEST_SHA256, b->bytes.data, b->bytes.len_bytes, &b->digest);
}

static bool is_gzip(unsigned layer)
{
        return layer % 2 == 0;
}

/* Each file is in two or three layers; the long one in two. */
static void make_layer(struct world_blob *b, unsigned n)
{
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        for (unsigned i = 0; i < 3; i++)
                append_file(&tar, (n + i) % (CONTENTS - 1));
        if (n == 0 || n == 2)
                append_file(&tar, CONTENTS - 1);
        tarmake_end(&tar);
        cas_digest_of(CAS_DIGEST_SHA256, tar.data, tar.len_bytes, &b->diff_id);
        if (is_gzip(n))
                gzip(&tar, &b->bytes);
        else
                cas_buf_append(&b->bytes, tar.data, tar.len_bytes);
        name_blob(b);
}

static void make_image(struct world *w, unsigned n)
{
        static const unsigned layers[WORLD_IMAGES][WORLD_IMAGE_LAYERS] = {
                {0, 1}, {1, 2}, {0, 3}, {3, 4}, {2, 4}};
        struct world_image *image = &w->images[n];
        char a[CAS_DIGEST_TEXT_BYTES], b[CAS_DIGEST_TEXT_BYTES];
        memcpy(image->layers, layers[n], sizeof(image->layers));
        const struct world_blob *low = &w->layers[image->layers[0]],
                                *high = &w->layers[image->layers[1]];
        cas_buf_printf(&image->config.bytes,
                       "{\"os\":\"linux\",\"architecture\":\"amd64\",\"author\":\"%u\",\"rootfs\":"
                       "{\"type\":\"layers\",\"diff_ids\":[\"%s\",\"%s\"]}}",
                       n, cas_digest_text(&low->diff_id, a), cas_digest_text(&high->diff_id, b));
        name_blob(&image->config);
        struct cas_buf *out = &image->manifest.bytes;
        cas_buf_append_str(out, "{\"schemaVersion\":2,\"config\":");
        testlayout_descriptor(out, CAS_MT_OCI_CONFIG, &image->config.digest,
                              image->config.bytes.len_bytes, "");
        for (unsigned i = 0; i < WORLD_IMAGE_LAYERS; i++) {
                const struct world_blob *l = &w->layers[image->layers[i]];
                cas_buf_append_str(out, i ? "," : ",\"layers\":[");
                testlayout_descriptor(out,
                                      is_gzip(image->layers[i]) ? CAS_MT_OCI_LAYER_GZIP
                                                                : CAS_MT_OCI_LAYER_TAR,
                                      &l->digest, l->bytes.len_bytes, "");
        }
        cas_buf_append_str(out, "]}");
        name_blob(&image->manifest);
}

static struct world made;

const struct world *world_get(void)
{
        if (made.layers[0].bytes.len_bytes)
                return &made;
        for (unsigned i = 0; i < WORLD_LAYERS; i++)
                make_layer(&made.layers[i], i);
        for (unsigned i = 0; i < WORLD_IMAGES; i++)
                make_image(&made, i);
        return &made;
}

const struct world_blob *world_image_blob(const struct world_image *image, unsigned i)
{
        if (i == 0)
                return &image->config;
        return i <= WORLD_IMAGE_LAYERS ? &made.layers[image->layers[i - 1]] : NULL;
}

void world_write_layout(const char *dir)
{
        const struct world *w = world_get();
        struct testlayout l;
        testlayout_init(&l, dir, "layout");
        for (unsigned i = 0; i < WORLD_LAYERS; i++)
                (void)testlayout_blob(&l, w->layers[i].bytes.data, w->layers[i].bytes.len_bytes);
        for (unsigned i = 0; i < WORLD_IMAGES; i++) {
                const struct world_image *image = &w->images[i];
                cas_cleanup_buf struct cas_buf d = CAS_BUF_INIT;
                char name[] = {(char)('0' + i), '\0'};
                (void)testlayout_blob(&l, image->config.bytes.data, image->config.bytes.len_bytes);
                (void)testlayout_blob(&l, image->manifest.bytes.data,
                                      image->manifest.bytes.len_bytes);
                testlayout_descriptor(&d, CAS_MT_OCI_MANIFEST, &image->manifest.digest,
                                      image->manifest.bytes.len_bytes, "");
                testlayout_name(&l, cas_buf_str(&d), name);
        }
        testlayout_finish(&l);
        testlayout_release(&l);
}

/* ---- history ---- */

uint64_t world_now(struct world_history *h)
{
        return ++h->clock;
}

unsigned world_begin(struct world_history *h, enum world_act act, unsigned image)
{
        cas_assert(h->count < CAS_COUNT(h->events));
        h->events[h->count] =
                (struct world_event){.act = act, .image = image, .begin = world_now(h)};
        return h->count++;
}

void world_end(struct world_history *h, unsigned event, bool acknowledged)
{
        h->events[event].end = world_now(h);
        h->events[event].acknowledged = acknowledged;
}

/* Whether an act of the other kind may have come after this one, and before `until`. */
static bool is_voided(const struct world_history *h, const struct world_event *e, uint64_t until)
{
        for (unsigned i = 0; i < h->count; i++) {
                const struct world_event *o = &h->events[i];
                if (o->image == e->image && o->act != e->act && o->begin < until &&
                    (o->end == 0 || o->end > e->begin))
                        return true;
        }
        return false;
}

bool world_was_there(const struct world_history *h, unsigned image, uint64_t from, uint64_t until)
{
        for (unsigned i = 0; i < h->count; i++) {
                const struct world_event *e = &h->events[i];
                if (e->image == image && e->act == WORLD_PUT && e->acknowledged && e->end <= from &&
                    !is_voided(h, e, until))
                        return true;
        }
        return false;
}

bool world_is_gone(const struct world_history *h, unsigned image)
{
        for (unsigned i = 0; i < h->count; i++) {
                const struct world_event *e = &h->events[i];
                if (e->image == image && e->act == WORLD_DELETE && e->acknowledged &&
                    !is_voided(h, e, UINT64_MAX))
                        return true;
        }
        return false;
}

/* ---- looking ---- */

int world_blob_check(struct cas_store *s, const struct world_blob *blob, struct cas_err *err)
{
        cas_cleanup_blob_stream struct cas_blob_stream *st = NULL;
        cas_cleanup_free uint8_t *buf = cas_xmalloc(READ_BYTES);
        size_t done = 0, n = 1;
        int rc = cas_blob_stream_open(s, &blob->digest, 0, blob->bytes.len_bytes, true, &st, err);
        while (rc == 0 && done < blob->bytes.len_bytes) {
                rc = cas_blob_stream_read(st, buf, READ_BYTES, &n, err);
                if (rc < 0)
                        break;
                if (n == 0 || n > blob->bytes.len_bytes - done ||
                    memcmp(buf, blob->bytes.data + done, n) != 0)
                        return cas_fail(err, CAS_E_CORRUPT, "other bytes after %zu", done);
                done += n;
        }
        return rc < 0 ? cas_err_wrap(err, "blob of %zu bytes", blob->bytes.len_bytes) : 0;
}

static int layer_check(struct cas_store *s, const struct world_blob *layer, struct cas_err *err)
{
        struct cas_layer_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        cas_cleanup_listing struct cas_listing listing = {0};
        int rc = cas_layer_stat(s, &layer->digest, &rec, &miss);
        if (rc == -CAS_E_NOTFOUND)
                return 0; /* not decoded */
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        rc = cas_layer_listing(s, &rec, &listing, err);
        for (size_t i = 0; rc == 0 && i < listing.count; i++) {
                cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT, want = CAS_BUF_INIT;
                const struct cas_entry *e = &listing.entries[i];
                append_content(&want, (unsigned)(e->path[strlen(e->path) - 1] - '0'));
                rc = cas_object_read(s, &e->object, 2 * LONG_BYTES, &bytes, err);
                if (rc < 0)
                        return cas_err_wrap(err, "%s", e->path);
                if (bytes.len_bytes != want.len_bytes ||
                    memcmp(bytes.data, want.data, want.len_bytes) != 0)
                        return cas_fail(err, CAS_E_CORRUPT, "%s has other bytes", e->path);
        }
        return rc;
}

int world_image_check(struct cas_store *s, const char *repo, const struct world_image *image,
                      struct cas_err *err)
{
        struct cas_manifest_info info;
        int rc = cas_manifest_stat(s, repo, &image->manifest.digest, &info, err);
        if (rc == 0)
                rc = world_blob_check(s, &image->manifest, err);
        for (unsigned i = 0; rc == 0 && world_image_blob(image, i); i++) {
                rc = world_blob_check(s, world_image_blob(image, i), err);
                if (rc == 0 && i > 0)
                        rc = layer_check(s, world_image_blob(image, i), err);
        }
        return rc;
}
