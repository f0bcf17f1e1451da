/* SPDX-License-Identifier: Apache-2.0 */
/* Records of layers that have not wholly come. */
#include "cas/elsewhere.h"

#include <time.h>

#include "cas/commit_int.h"
#include "cas/elsewhere_int.h"
#include "cas/record_int.h"

void cas_elsewhere_encode(const struct cas_elsewhere_layer *rec, struct cas_buf *out)
{
        cas_varint_append(out, rec->blob_bytes);
        cas_varint_append(out, rec->added_unix_s);
        cas_buf_append_byte(out, rec->on_demand_only);
        cas_digest_append(out, &rec->manifest);
        cas_text_append(out, rec->source);
        cas_layer_record_encode(&rec->layer, out);
}

int cas_elsewhere_decode(const struct cas_digest *blob, const void *data, size_t len,
                         struct cas_elsewhere_layer *out, struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(data, len);
        memset(out, 0, sizeof(*out));
        out->blob_bytes = cas_cursor_varint(&c);
        out->added_unix_s = cas_cursor_varint(&c);
        uint8_t flags = cas_cursor_u8(&c);
        out->on_demand_only = flags;
        cas_cursor_digest(&c, &out->manifest);
        cas_cursor_text(&c, out->source, sizeof(out->source));
        if (c.failed || flags > 1)
                return cas_fail(err, CAS_E_CORRUPT, "elsewhere: malformed");
        return cas_layer_record_decode(blob, c.at, cas_cursor_left(&c), &out->layer, err);
}

/* When the layer was noted, if it still is; 0: it is not. */
static uint64_t added_before(struct cas_store *s, const struct cas_layer_record *layer)
{
        cas_cleanup_free struct cas_elsewhere_layer *rec = cas_xcalloc(1, sizeof(*rec));
        struct cas_err ignored = CAS_ERR_INIT;
        bool same = cas_elsewhere_stat(s, &layer->blob, rec, &ignored) == 0 &&
                    cas_hash_equal(&rec->layer.listing, &layer->listing);
        return same ? rec->added_unix_s : 0;
}

static int put_record(struct cas_publish *p, const struct cas_elsewhere_layer *layer,
                      struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        struct cas_elsewhere_layer rec = *layer;
        if (strnlen(rec.source, sizeof(rec.source)) == sizeof(rec.source) || !rec.source[0])
                return cas_fail(err, CAS_E_INVALID, "elsewhere: no source, or too long a text");
        cas_publish_keep_blob(p, &rec.layer.blob);
        cas_publish_keep_object(p, &rec.layer.listing);
        rec.added_unix_s = added_before(cas_publish_store(p), &rec.layer);
        if (rec.added_unix_s == 0)
                rec.added_unix_s = (uint64_t)time(NULL);
        cas_key_digest(&rec.layer.blob, &key);
        cas_elsewhere_encode(&rec, &value);
        cas_batch_put(cas_publish_batch(p), CAS_FAMILY_ELSEWHERE, key.bytes, key.len, value.data,
                      value.len_bytes);
        return 0;
}

int cas_elsewhere_put(struct cas_publish *p, const struct cas_elsewhere_layer *layer,
                      const struct cas_listing *listing, struct cas_err *err)
{
        int rc = cas_publish_elsewhere(p, &layer->layer, listing, err);
        return rc < 0 ? rc : put_record(p, layer, err);
}

int cas_elsewhere_stat(struct cas_store *s, const struct cas_digest *blob,
                       struct cas_elsewhere_layer *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_key_digest(blob, &key);
        int rc = cas_index_get(s->index, CAS_FAMILY_ELSEWHERE, key.bytes, key.len, &value, err);
        if (rc == -CAS_E_NOTFOUND)
                return cas_fail(err, CAS_E_NOTFOUND, "layer %s is not elsewhere",
                                cas_digest_text(blob, text));
        return rc < 0 ? rc : cas_elsewhere_decode(blob, value.data, value.len_bytes, out, err);
}

int cas_elsewhere_layer(struct cas_store *s, const struct cas_digest *blob,
                        struct cas_layer_record *out, struct cas_err *err)
{
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_layer_stat(s, blob, out, &miss);
        if (rc != -CAS_E_NOTFOUND) {
                if (rc < 0)
                        *err = miss;
                return rc;
        }
        cas_cleanup_free struct cas_elsewhere_layer *rec = cas_xcalloc(1, sizeof(*rec));
        rc = cas_elsewhere_stat(s, blob, rec, err);
        if (rc == 0) {
                *out = rec->layer;
                out->is_elsewhere = true;
        }
        return rc;
}

int cas_elsewhere_fill(struct cas_store *s, const struct cas_digest *blob, struct cas_err *err)
{
        cas_cleanup_free struct cas_elsewhere_layer *rec = cas_xcalloc(1, sizeof(*rec));
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_publish_begin(s, &p, err);
        if (rc < 0)
                return rc;
        cas_publish_keep_blob(p, blob); /* nobody takes the record away meanwhile */
        rc = cas_elsewhere_stat(s, blob, rec, &miss);
        if (rc == -CAS_E_NOTFOUND || (rc == 0 && !rec->on_demand_only))
                return 0;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        rec->on_demand_only = false;
        rc = put_record(p, rec, err); /* its references are there */
        if (rc == 0)
                rc = cas_publish_commit(p, err);
        if (rc == 0)
                cas_elsewhere_changed(s);
        return rc;
}

bool cas_layer_is_elsewhere(struct cas_store *s, const struct cas_digest *blob)
{
        cas_cleanup_free struct cas_elsewhere_layer *rec = cas_xcalloc(1, sizeof(*rec));
        struct cas_err ignored = CAS_ERR_INIT;
        return cas_elsewhere_stat(s, blob, rec, &ignored) == 0;
}

struct each {
        bool (*fn)(void *arg, const struct cas_elsewhere_layer *layer);
        void *arg;
};

static int each_record(void *arg, const void *key, size_t key_len, const void *value,
                       size_t value_len, struct cas_err *err)
{
        const struct each *e = arg;
        struct cas_elsewhere_layer rec;
        struct cas_digest blob;
        if (cas_digest_value_decode(key, key_len, &blob, err) < 0 ||
            cas_elsewhere_decode(&blob, value, value_len, &rec, err) < 0)
                return -(int)err->code;
        return e->fn(e->arg, &rec) ? 0 : 1;
}

int cas_elsewhere_each(struct cas_store *s,
                       bool (*fn)(void *arg, const struct cas_elsewhere_layer *layer), void *arg,
                       struct cas_err *err)
{
        struct each e = {fn, arg};
        return cas_index_scan(s->index, &(struct cas_scan){.family = CAS_FAMILY_ELSEWHERE},
                              each_record, &e, err);
}
