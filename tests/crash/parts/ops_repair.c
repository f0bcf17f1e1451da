/* SPDX-License-Identifier: Apache-2.0 */
/* Repair of damage, from another copy and without one. Where there is none, what is lost is put
 * aside, and a client brings it again. */
#include <fcntl.h>

#include "cas/condense.h"
#include "cas/pack_int.h"
#include "cas/packset_int.h"
#include "cas/record_int.h"
#include "cas/repair_int.h"
#include "cas/verity.h"
#include "tests/crash/parts/operation.h"
#include "tests/support/pushedimage.h"

#define DAMAGED_SEED 200
#define DAMAGED_FILE 1

static void make_image(struct pushedimage *out)
{
        pushedimage_make(out, "r", "damaged", DAMAGED_SEED, FILES, PUSHED_GZIP);
}

/* Beside "old", in a pack of its own. */
static void put_pushed(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        cleanup_pushedimage struct pushedimage image;
        struct cas_layer_record layer;
        make_image(&image);
        prepare_one(s);
        must(cas_packset_seal(s->packset, &err) == 0);
        must(pushedimage_push(s, &image, &err) == 0);
        must(pushedimage_decode(s, &image, &layer, &err) == 0);
}

static void condense_pushed(struct cas_store *s, bool keep_verbatim)
{
        struct cas_err err = CAS_ERR_INIT;
        cleanup_pushedimage struct pushedimage image;
        struct cas_recipe_record rec;
        const struct cas_condense_options options = {.threads = 1, .keep_verbatim = keep_verbatim};
        make_image(&image);
        must(cas_condense_blob(s, &image.layer, &options, NULL, &rec, &err) == 0 && rec.is_proved);
}

static void flip_bit(struct cas_store *s, const char *path, off_t at)
{
        cas_cleanup_fd int fd = openat(s->dirfd, path, O_RDWR | O_CLOEXEC);
        uint8_t byte;
        must(fd >= 0 && pread(fd, &byte, 1, at) == 1);
        byte ^= 1;
        must(pwrite(fd, &byte, 1, at) == 1);
}

/* ---- what is damaged ---- */

/* A file of one chunk. */
static struct cas_hash damaged_chunk(void)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct cas_hash id;
        test_file(DAMAGED_SEED + DAMAGED_FILE, &bytes);
        cas_verity_of(bytes.data, bytes.len_bytes, &id);
        return id;
}

/* Which pack it was in is noted beside the store. */
static char *note_path(void)
{
        return cas_xasprintf("%s/pack", crash_side);
}

static void damage_chunk(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_hash chunk = damaged_chunk();
        struct cas_chunk_record rec;
        char name[CAS_PACK_NAME_BYTES];
        must(cas_index_get_chunk(s->index, &chunk, &rec, &err) == 0);
        cas_cleanup_free char *path = cas_xasprintf("packs/%s", cas_pack_name(rec.pack_id, name));
        flip_bit(s, path, (off_t)(rec.block_offset + rec.block_stored_bytes / 2));
        cas_cleanup_free char *note = note_path();
        cas_cleanup_fd int fd = open(note, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        must(fd >= 0 && write(fd, &rec.pack_id, sizeof(rec.pack_id)) == sizeof(rec.pack_id));
}

static uint64_t damaged_pack(void)
{
        uint64_t id;
        cas_cleanup_free char *note = note_path();
        cas_cleanup_fd int fd = open(note, O_RDONLY | O_CLOEXEC);
        must(fd >= 0 && read(fd, &id, sizeof(id)) == sizeof(id));
        return id;
}

static void damage_blob(struct cas_store *s)
{
        cleanup_pushedimage struct pushedimage image;
        char path[CAS_BLOB_PATH_BYTES];
        make_image(&image);
        cas_blob_path(&image.layer, path);
        flip_bit(s, path, 100);
}

/* The layer's blob has all files. */
static void prepare_mend_chunk(struct cas_store *s)
{
        put_pushed(s);
        damage_chunk(s);
}

/* The blob is made of its files. */
static void prepare_lose_chunk(struct cas_store *s)
{
        put_pushed(s);
        condense_pushed(s, false);
        damage_chunk(s);
}

/* The files and the recipe make it. */
static void prepare_mend_blob(struct cas_store *s)
{
        put_pushed(s);
        condense_pushed(s, true);
        damage_blob(s);
}

static void prepare_lose_blob(struct cas_store *s)
{
        put_pushed(s);
        damage_blob(s);
}

/* ---- repair ---- */

static void ignore_message(void *arg CAS_UNUSED, enum cas_fsck_severity severity CAS_UNUSED,
                           const char *id CAS_UNUSED, const char *subject CAS_UNUSED,
                           const char *message CAS_UNUSED)
{
}

/* The chunk, then what else is in its pack, which goes. */
static int run_mend_chunk(struct cas_store *s, struct cas_err *err)
{
        const struct cas_scrub_options options = {.repair = true};
        const struct cas_hash chunk = damaged_chunk();
        const uint64_t pack_id = damaged_pack();
        struct cas_repair *r = cas_repair_new(s, &options, ignore_message, NULL);
        struct cas_pack_record rec;
        struct cas_err gone = CAS_ERR_INIT;
        enum cas_repaired how;
        int rc = cas_repair_chunk(r, &chunk, &how, err);
        if (rc == 0) {
                rc = cas_index_get_pack(s->index, pack_id, &rec, &gone);
                if (rc == 0)
                        rc = cas_repair_pack(r, pack_id, &how, err);
                else if (rc == -CAS_E_NOTFOUND)
                        rc = 0;
                else
                        *err = gone;
        }
        cas_repair_free(r);
        return rc;
}

static int run_mend_blob(struct cas_store *s, struct cas_err *err)
{
        const struct cas_scrub_options options = {.repair = true};
        cleanup_pushedimage struct pushedimage image;
        struct cas_repair *r = cas_repair_new(s, &options, ignore_message, NULL);
        enum cas_repaired how;
        make_image(&image);
        int rc = cas_repair_blob(r, &image.layer, &how, err);
        cas_repair_free(r);
        return rc;
}

static int push_again(struct cas_store *s, struct cas_err *err)
{
        cleanup_pushedimage struct pushedimage image;
        struct cas_layer_record layer;
        make_image(&image);
        int rc = pushedimage_push(s, &image, err);
        return rc < 0 ? rc : pushedimage_decode(s, &image, &layer, err);
}

static int run_lose_chunk(struct cas_store *s, struct cas_err *err)
{
        int rc = run_mend_chunk(s, err);
        return rc < 0 ? rc : push_again(s, err);
}

static int run_lose_blob(struct cas_store *s, struct cas_err *err)
{
        int rc = run_mend_blob(s, err);
        return rc < 0 ? rc : push_again(s, err);
}

static enum outcome look_damaged(struct cas_store *s, enum outcome other_bytes)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest d;
        cleanup_pushedimage struct pushedimage image;
        make_image(&image);
        if (!image_is_whole(s, "old", 0) || !has_tag(s, "damaged", &d))
                return BROKEN;
        int got = pushedimage_check(s, &image, &err);
        return got < 0 ? other_bytes : got > 0 ? BEFORE : AFTER;
}

/* Other bytes are never given. */
static enum outcome look_damaged_chunk(struct cas_store *s)
{
        return look_damaged(s, BROKEN);
}

/* Of a blob's own file whoever asked for it compares the digest. */
static enum outcome look_damaged_blob(struct cas_store *s)
{
        return look_damaged(s, BEFORE);
}

static const struct operation list[] = {
        {.name = "mend-chunk",
         .prepare = prepare_mend_chunk,
         .run = run_mend_chunk,
         .look = look_damaged_chunk,
         .damaged = true},
        {.name = "lose-chunk",
         .prepare = prepare_lose_chunk,
         .run = run_lose_chunk,
         .look = look_damaged_chunk,
         .damaged = true},
        {.name = "mend-blob",
         .prepare = prepare_mend_blob,
         .run = run_mend_blob,
         .look = look_damaged_blob,
         .damaged = true},
        {.name = "lose-blob",
         .prepare = prepare_lose_blob,
         .run = run_lose_blob,
         .look = look_damaged_blob,
         .damaged = true},
};
const struct operations crash_repair = {list, CAS_COUNT(list)};
