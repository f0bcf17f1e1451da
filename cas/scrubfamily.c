/* SPDX-License-Identifier: Apache-2.0 */
/* Records of the index in order, in slices: an iterator would keep all that is deleted meanwhile,
 * and a pass may take days. */
#include "cas/scrub_int.h"

/* Records taken from the index at a time; and their bytes, at most so many and one more. */
#define SLICE_RECORDS 1024
#define SLICE_BYTES (256 * CAS_KIB)
/* The same at full speed, where they are put in another order: the more, the more lies together. */
#define SPOT_SLICE_RECORDS 4096
#define SPOT_SLICE_BYTES (4 * CAS_MIB)

/* Records of one slice, copied: le32 length of the key, of the value, key, value. */
struct slice {
        struct cas_buf bytes;
        size_t count, max, bytes_max;
        bool more; /* behind it, perhaps */
        struct cas_record_key last;
};

static int take_record(void *arg, const void *key, size_t key_len, const void *value,
                       size_t value_len, struct cas_err *err CAS_UNUSED)
{
        struct slice *slice = arg;
        cas_buf_append_le32(&slice->bytes, (uint32_t)key_len);
        cas_buf_append_le32(&slice->bytes, (uint32_t)value_len);
        cas_buf_append(&slice->bytes, key, key_len);
        cas_buf_append(&slice->bytes, value, value_len);
        slice->last.len = cas_min_u64(key_len, sizeof(slice->last.bytes));
        memcpy(slice->last.bytes, key, slice->last.len);
        slice->more = ++slice->count >= slice->max || slice->bytes.len_bytes >= slice->bytes_max;
        return slice->more;
}

/* Records from `after` on (exclusive; empty: from the first). Where the index cannot be read the
 * family ends: that is told. False when the check cannot go on. */
static bool next_slice(struct cas_scrub_run *run, const struct cas_scan *scan,
                       const struct cas_record_key *after, struct slice *slice)
{
        struct cas_err err = CAS_ERR_INIT;
        uint8_t from[CAS_RECORD_KEY_BYTES_MAX + 1];
        struct cas_scan part = *scan;
        if (after->len > 0 && after->len < CAS_RECORD_KEY_BYTES_MAX) {
                memcpy(from, after->bytes, after->len);
                from[after->len] = 0; /* the next key that there can be */
                part.from = from;
                part.from_len = after->len + 1;
        }
        cas_buf_clear(&slice->bytes);
        slice->count = 0;
        slice->more = false;
        int rc = cas_index_scan(run->s->index, &part, take_record, slice, &err);
        if (rc == -CAS_E_CORRUPT || rc == -CAS_E_IO) {
                cas_scrub_say(run, CAS_FSCK_INDEX_DAMAGED, cas_family_name(scan->family), "%s",
                              err.msg);
                return true;
        }
        if (rc < 0)
                cas_scrub_fail(run, &err);
        return rc == 0;
}

/* One record of a slice; false at its end. */
static bool next_record(struct cas_cursor *c, struct cas_scrub_item *item)
{
        if (cas_cursor_left(c) == 0)
                return false;
        item->key_len = cas_cursor_le32(c);
        item->value_len = cas_cursor_le32(c);
        item->key = cas_cursor_take(c, item->key_len);
        item->value = cas_cursor_take(c, item->value_len);
        cas_assert(!c->failed);
        return true;
}

bool cas_scrub_scan(struct cas_scrub_run *run, const struct cas_scan *scan, cas_scrub_record_fn fn,
                    void *arg)
{
        struct slice slice = {.max = SLICE_RECORDS, .bytes_max = SLICE_BYTES};
        struct cas_record_key after = {.len = 0};
        bool good = true;
        do {
                struct cas_scrub_item item;
                good = next_slice(run, scan, &after, &slice);
                struct cas_cursor c = cas_cursor_over(slice.bytes.data, slice.bytes.len_bytes);
                while (good && next_record(&c, &item))
                        fn(arg, item.key, item.key_len, item.value, item.value_len);
                after = slice.last;
                good = good && (!slice.more || cas_scrub_goes_on(run));
        } while (good && slice.more);
        cas_buf_release(&slice.bytes);
        return good;
}

/* ---- looking at each ---- */

struct record_look {
        const struct cas_scrub_family *family;
        const struct cas_scrub_item *item; /* as it was when the slice was read */
};

static void look_at(struct cas_look *look, void *arg)
{
        const struct record_look *r = arg;
        struct cas_scrub_run *run = cas_look_run(look);
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_scrub_item now = *r->item;
        if (!cas_look_is_first(look)) {
                int rc = cas_index_peek(run->s->index, now.family, now.key, now.key_len, &value,
                                        &err);
                if (rc == -CAS_E_NOTFOUND)
                        return; /* gone, with what it told of */
                if (rc < 0 && rc != -CAS_E_CORRUPT)
                        cas_scrub_fail(run, &err);
                if (rc == 0) {
                        now.value = value.data;
                        now.value_len = value.len_bytes;
                }
        }
        r->family->check(look, &now);
}

/* Some records for one thread. */
struct portion {
        struct cas_scrub_run *run;
        const struct cas_scrub_family *family;
        struct cas_buf bytes;
};

static void check_portion(void *arg)
{
        struct portion *p = arg;
        struct cas_cursor c = cas_cursor_over(p->bytes.data, p->bytes.len_bytes);
        struct cas_scrub_item item = {.family = p->family->family, .arg = p->family->arg};
        cas_cleanup_scrub_blocks struct cas_scrub_blocks *blocks =
                p->family->spot ? cas_scrub_blocks_new(p->run, false) : NULL;
        uint64_t count = 0;
        item.blocks = blocks;
        for (; next_record(&c, &item); count++)
                cas_scrub_look(p->run, look_at,
                               &(struct record_look){.family = p->family, .item = &item});
        if (p->family->counter)
                cas_scrub_count(p->run, p->family->counter, count);
        cas_buf_release(&p->bytes);
        free(p);
}

/* A record of a slice that is put in another order. */
struct spotted {
        struct cas_scrub_spot spot;
        const uint8_t *start; /* of its bytes in the slice */
        size_t len;
};

static int by_spot(const void *a, const void *b)
{
        const struct spotted *x = a, *y = b;
        if (x->spot.pack_id != y->spot.pack_id)
                return x->spot.pack_id < y->spot.pack_id ? -1 : 1;
        return (x->spot.offset > y->spot.offset) - (x->spot.offset < y->spot.offset);
}

static void sort_slice(struct cas_scrub_run *run, const struct cas_scrub_family *family,
                       struct slice *slice)
{
        cas_cleanup_free struct spotted *list = cas_xcalloc(slice->count, sizeof(*list));
        struct cas_buf sorted = CAS_BUF_INIT;
        struct cas_cursor c = cas_cursor_over(slice->bytes.data, slice->bytes.len_bytes);
        struct cas_scrub_item item = {.family = family->family};
        for (size_t i = 0; i < slice->count; i++) {
                list[i].start = c.at;
                (void)next_record(&c, &item);
                list[i].len = (size_t)(c.at - list[i].start);
                list[i].spot = family->spot(run, &item);
        }
        qsort(list, slice->count, sizeof(*list), by_spot);
        for (size_t i = 0; i < slice->count; i++)
                cas_buf_append(&sorted, list[i].start, list[i].len);
        cas_buf_release(&slice->bytes);
        slice->bytes = sorted;
}

/* Hands a slice out in portions. */
static void submit_slice(struct cas_scrub_run *run, const struct cas_scrub_family *family,
                         const struct slice *slice)
{
        struct cas_cursor c = cas_cursor_over(slice->bytes.data, slice->bytes.len_bytes);
        struct cas_scrub_item item;
        while (cas_cursor_left(&c) > 0) {
                const uint8_t *start = c.at;
                for (unsigned i = 0; i < family->at_once && next_record(&c, &item); i++)
                        continue;
                struct portion *p = cas_xcalloc(1, sizeof(*p));
                p->run = run;
                p->family = family;
                cas_buf_append(&p->bytes, start, (size_t)(c.at - start));
                if (family->alone)
                        check_portion(p);
                else
                        cas_scrub_submit(run, check_portion, p);
        }
}

bool cas_scrub_each(struct cas_scrub_run *run, const struct cas_scrub_family *family)
{
        const struct cas_scan all = {.family = family->family};
        /* A slice is the least that a stop waits for. */
        struct slice slice = {.max = cas_min_u64(SLICE_RECORDS, 4 * (uint64_t)family->at_once),
                              .bytes_max = SLICE_BYTES};
        bool good = true;
        if (family->alone)
                slice.max = 1;
        if (family->spot && run->pool) {
                slice.max = SPOT_SLICE_RECORDS;
                slice.bytes_max = SPOT_SLICE_BYTES;
        }
        do {
                good = next_slice(run, &all, &run->place.key, &slice);
                if (good && slice.count > 0) {
                        if (family->spot && run->pool)
                                sort_slice(run, family, &slice);
                        submit_slice(run, family, &slice);
                        run->place.key = slice.last;
                }
                good = good && cas_scrub_goes_on(run);
        } while (good && slice.more);
        cas_scrub_wait(run);
        cas_buf_release(&slice.bytes);
        return good;
}
