/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/heat.h"

#include <xxhash.h>

#include "cas/io.h"
#include "cas/map.h"
#include "cas/mutex.h"

#define HEAT_FILE "heat"
#define MAGIC "lamheat"
#define VERSION 1
#define HEAD_BYTES 16 /* magic with its NUL, version, count */
#define ENTRY_BYTES 24
#define TAIL_BYTES 8 /* XXH3-64 of all before */
#define SAMPLES 8
#define HEAT_MAX (UINT64_C(1) << 44)

struct warm {
        uint64_t pack_id;
        uint64_t heat;
        uint64_t read_unix_s; /* when it was last read: heat is as of then */
};
struct tier_heat {
        struct cas_mutex mutex; /* a leaf; guards all below */
        struct cas_map *places; /* pack id -> place in `list` */
        struct warm *list;
        size_t count, max;
        uint64_t random; /* of the next samples */
        bool changed;    /* since it was saved */
};

struct tier_heat *tier_heat_new(void)
{
        struct tier_heat *h = cas_xcalloc(1, sizeof(*h));
        cas_mutex_init(&h->mutex, "tier.heat");
        h->places = cas_map_new();
        h->random = 1;
        return h;
}

void tier_heat_free(struct tier_heat *h)
{
        if (!h)
                return;
        cas_map_free(h->places);
        free(h->list);
        cas_mutex_release(&h->mutex);
        free(h);
}

uint64_t tier_heat_decayed(uint64_t heat, uint64_t seconds)
{
        uint64_t halves = seconds / TIER_HEAT_HALF_S;
        if (halves >= 64)
                return 0;
        heat >>= halves;
        return heat - heat / 2 * (seconds % TIER_HEAT_HALF_S) / TIER_HEAT_HALF_S;
}

static uint64_t decayed_at(const struct warm *w, uint64_t now_s)
{
        return now_s > w->read_unix_s ? tier_heat_decayed(w->heat, now_s - w->read_unix_s)
                                      : w->heat;
}

static struct warm *find_locked(struct tier_heat *h, uint64_t pack_id)
{
        const uint64_t *place = cas_map_get(h->places, &pack_id, sizeof(pack_id));
        return place ? &h->list[*place] : NULL;
}

static void remove_locked(struct tier_heat *h, struct warm *w)
{
        struct warm *last = &h->list[--h->count];
        (void)cas_map_remove(h->places, &w->pack_id, sizeof(w->pack_id));
        if (w == last)
                return;
        *w = *last;
        *cas_map_put(h->places, &w->pack_id, sizeof(w->pack_id), NULL) = (uint64_t)(w - h->list);
}

/* The coldest of a few. */
static void evict_locked(struct tier_heat *h, uint64_t now_s)
{
        struct warm *coldest = NULL;
        for (unsigned i = 0; i < SAMPLES; i++) {
                h->random = h->random * UINT64_C(6364136223846793005) + 1442695040888963407;
                struct warm *w = &h->list[(h->random >> 33) % h->count];
                if (!coldest || decayed_at(w, now_s) < decayed_at(coldest, now_s))
                        coldest = w;
        }
        remove_locked(h, coldest);
}

static struct warm *add_locked(struct tier_heat *h, uint64_t pack_id, uint64_t now_s)
{
        if (h->count == TIER_HEAT_PACKS_MAX)
                evict_locked(h, now_s);
        if (h->count == h->max) {
                h->max = h->max ? h->max * 2 : 64;
                h->list = cas_xrealloc(h->list, h->max * sizeof(h->list[0]));
        }
        struct warm *w = &h->list[h->count];
        *w = (struct warm){.pack_id = pack_id, .read_unix_s = now_s};
        *cas_map_put(h->places, &pack_id, sizeof(pack_id), NULL) = h->count++;
        return w;
}

void tier_heat_touch(struct tier_heat *h, uint64_t pack_id, uint64_t now_s)
{
        cas_mutex_lock(&h->mutex);
        struct warm *w = find_locked(h, pack_id);
        if (!w)
                w = add_locked(h, pack_id, now_s);
        w->heat = cas_min_u64(decayed_at(w, now_s) + TIER_HEAT_READ, HEAT_MAX);
        w->read_unix_s = cas_max_u64(w->read_unix_s, now_s);
        h->changed = true;
        cas_mutex_unlock(&h->mutex);
}

void tier_heat_forget(struct tier_heat *h, uint64_t pack_id)
{
        cas_mutex_lock(&h->mutex);
        struct warm *w = find_locked(h, pack_id);
        if (w) {
                remove_locked(h, w);
                h->changed = true;
        }
        cas_mutex_unlock(&h->mutex);
}

struct tier_heat_of tier_heat_get(struct tier_heat *h, uint64_t pack_id, uint64_t now_s)
{
        struct tier_heat_of of = {0};
        cas_mutex_lock(&h->mutex);
        const struct warm *w = find_locked(h, pack_id);
        if (w)
                of = (struct tier_heat_of){.heat = decayed_at(w, now_s),
                                           .read_unix_s = w->read_unix_s};
        cas_mutex_unlock(&h->mutex);
        return of;
}

size_t tier_heat_count(struct tier_heat *h)
{
        cas_mutex_lock(&h->mutex);
        size_t count = h->count;
        cas_mutex_unlock(&h->mutex);
        return count;
}

/* ---- the file ---- */

void tier_heat_encode(struct tier_heat *h, struct cas_buf *out)
{
        size_t begin = out->len_bytes;
        cas_mutex_lock(&h->mutex);
        cas_buf_append(out, MAGIC, sizeof(MAGIC));
        cas_buf_append_le32(out, VERSION);
        cas_buf_append_le32(out, (uint32_t)h->count);
        for (size_t i = 0; i < h->count; i++) {
                cas_buf_append_le64(out, h->list[i].pack_id);
                cas_buf_append_le64(out, h->list[i].heat);
                cas_buf_append_le64(out, h->list[i].read_unix_s);
        }
        cas_mutex_unlock(&h->mutex);
        cas_buf_append_le64(out, XXH3_64bits(out->data + begin, out->len_bytes - begin));
}

static int head_check(struct cas_cursor *c, const void *data, size_t len, uint32_t *count,
                      struct cas_err *err)
{
        const uint8_t *magic = cas_cursor_take(c, sizeof(MAGIC));
        uint32_t version = cas_cursor_le32(c);
        *count = cas_cursor_le32(c);
        if (c->failed || memcmp(magic, MAGIC, sizeof(MAGIC)) != 0)
                return cas_fail(err, CAS_E_CORRUPT, "not a file of heat");
        if (version != VERSION)
                return cas_fail(err, CAS_E_UNSUPPORTED, "version %u", version);
        if (*count > TIER_HEAT_PACKS_MAX ||
            len != HEAD_BYTES + (size_t)*count * ENTRY_BYTES + TAIL_BYTES)
                return cas_fail(err, CAS_E_CORRUPT, "its length is wrong");
        struct cas_cursor tail =
                cas_cursor_over((const uint8_t *)data + len - TAIL_BYTES, TAIL_BYTES);
        if (cas_cursor_le64(&tail) != XXH3_64bits(data, len - TAIL_BYTES))
                return cas_fail(err, CAS_E_CORRUPT, "its checksum is wrong");
        return 0;
}

int tier_heat_decode(struct tier_heat *h, const void *data, size_t len, struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(data, len);
        uint32_t count;
        int rc = head_check(&c, data, len, &count, err);
        if (rc < 0)
                return rc;
        cas_mutex_lock(&h->mutex);
        for (uint32_t i = 0; i < count; i++) {
                uint64_t id = cas_cursor_le64(&c), heat = cas_cursor_le64(&c);
                uint64_t read_s = cas_cursor_le64(&c);
                struct warm *w = find_locked(h, id);
                if (!w)
                        w = add_locked(h, id, read_s);
                w->heat = cas_min_u64(heat, HEAT_MAX);
                w->read_unix_s = read_s;
        }
        cas_mutex_unlock(&h->mutex);
        return 0;
}

int tier_heat_load(struct tier_heat *h, int store_dirfd, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_io_read_file(cas_io_posix(), store_dirfd, HEAT_FILE, TIER_HEAT_FILE_BYTES_MAX,
                                  &bytes, &miss);
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        if (rc == 0)
                rc = tier_heat_decode(h, bytes.data, bytes.len_bytes, &miss);
        if (rc < 0)
                *err = miss;
        return rc;
}

int tier_heat_save(struct tier_heat *h, int store_dirfd, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_mutex_lock(&h->mutex);
        bool changed = h->changed;
        h->changed = false;
        cas_mutex_unlock(&h->mutex);
        if (!changed)
                return 0;
        tier_heat_encode(h, &bytes);
        int rc = cas_io_replace_file(cas_io_posix(), store_dirfd, ".", HEAT_FILE, bytes.data,
                                     bytes.len_bytes, 0600, err);
        if (rc < 0) {
                cas_mutex_lock(&h->mutex);
                h->changed = true;
                cas_mutex_unlock(&h->mutex);
        }
        return rc;
}
